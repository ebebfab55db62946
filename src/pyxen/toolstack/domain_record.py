"""What the toolstack remembers of a domain beyond what the hypervisor knows: its name, its configuration, its history."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyxen.hypervisor.dom0_interface import DomainInfo, ShutdownReason
from pyxen.toolstack.configuration import DomainConfig
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.toolstack.timeline import Timeline

if TYPE_CHECKING:
    from pyxen.toolstack.start_observer import StartObserver

DOMAIN_0_NAME = "Domain-0"

#: Destroyed domains whose end can still be asked for.
_DEPARTED_LIMIT = 256


class LifeState(enum.StrEnum):
    """What one can wait for. A domain that runs or sleeps is ``RUNNING``."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    DESTROYED = "destroyed"


@dataclass(frozen=True)
class StateReached:
    """A state that a domain got into. ``shutdown_reason`` and ``crash_cause`` stay with it once they are known."""

    domid: int
    state: LifeState
    shutdown_reason: str = ""
    crash_cause: str = ""


def state_of(info: DomainInfo) -> LifeState:
    """The state that the hypervisor reports."""
    if info.dying:
        return LifeState.DESTROYED
    if info.shutdown:
        return LifeState.CRASHED if info.shutdown_reason == ShutdownReason.CRASH else LifeState.SHUTDOWN
    return LifeState.PAUSED if info.paused else LifeState.RUNNING


def reason_name(reason: ShutdownReason | None) -> str:
    """As configuration files and the protocol spell it: "soft-reset"."""
    return "" if reason is None else reason.name.lower().replace("_", "-")


@dataclass(eq=False)
class DomainRecord:
    """One domain that this toolstack made."""

    domid: int
    name: str
    uuid: bytes
    config: DomainConfig
    next_config: DomainConfig  #: for its restart
    timeline: Timeline = field(default_factory=Timeline)
    observer: StartObserver | None = None  #: of its start-up
    started: float = field(default_factory=time.monotonic)
    shutdown_seen: bool = False
    destruction: asyncio.Task[None] | None = None
    shutdown_reason: str = ""
    crash_cause: str = ""
    passed: list[StateReached] = field(default_factory=list)
    waiting: set[asyncio.Queue[StateReached]] = field(default_factory=set)

    @property
    def uptime(self) -> float:
        return time.monotonic() - self.started

    def reach(self, state: LifeState) -> None:
        """Remember the state and tell those who wait."""
        reached = StateReached(self.domid, state, self.shutdown_reason, self.crash_cause)
        if state not in (LifeState.RUNNING, LifeState.PAUSED):
            self.passed.append(reached)
        for queue in self.waiting:
            queue.put_nowait(reached)


class DomainRegistry:
    """All domains by id, the names in use, and how the last destroyed ones ended. Belongs to the event loop's thread."""

    def __init__(self) -> None:
        self._records: dict[int, DomainRecord] = {}
        self._under_construction: dict[int, str] = {}
        self._departed: OrderedDict[int, list[StateReached]] = OrderedDict()
        self._reserved_names: set[str] = set()
        self._reserved_uuids: set[bytes] = set()

    def __iter__(self) -> Iterator[DomainRecord]:
        return iter(list(self._records.values()))

    def __len__(self) -> int:
        return len(self._records)

    def add(self, record: DomainRecord) -> None:
        self._under_construction.pop(record.domid, None)
        self._records[record.domid] = record

    def name(self, domid: int) -> str | None:
        """The name of a domain, also of one that is still being built."""
        record = self._records.get(domid)
        return record.name if record is not None else self._under_construction.get(domid)

    def begin(self, domid: int, name: str) -> None:
        """The domain exists, but can't be used before ``add``."""
        self._under_construction[domid] = name

    def find_name(self, name: str) -> int | None:
        """The id of the domain of that name, also of one that is still being built."""
        record = self.named(name)
        if record is not None:
            return record.domid
        return next((domid for domid, other in self._under_construction.items() if other == name), None)

    def abandon(self, domid: int | None) -> None:
        """It will not be finished. No effect on None."""
        if domid is not None:
            self._under_construction.pop(domid, None)

    def remove(self, record: DomainRecord) -> None:
        """Forget a destroyed domain, except how it ended."""
        if self._records.pop(record.domid, None) is not None:
            self._departed[record.domid] = record.passed
            while len(self._departed) > _DEPARTED_LIMIT:
                self._departed.popitem(last=False)

    def find(self, domid: int) -> DomainRecord | None:
        return self._records.get(domid)

    def get(self, domid: int) -> DomainRecord:
        """Raises ``ToolstackError`` NOT_FOUND, and STATE for one that is still being built or already being destroyed."""
        if domid in self._under_construction:
            raise ToolstackError(f"domain {self._under_construction[domid]} is still being built", Fault.STATE)
        record = self._records.get(domid)
        if record is None:
            raise ToolstackError(f"there is no domain {domid}", Fault.NOT_FOUND)
        return record

    def named(self, name: str) -> DomainRecord | None:
        return next((record for record in self._records.values() if record.name == name), None)

    def check_free(self, name: str, uuid: bytes | None) -> None:
        """Raises ``ToolstackError`` EXISTS when the name or the UUID is in use."""
        if name == DOMAIN_0_NAME or name in self._reserved_names or self.named(name) is not None:
            raise ToolstackError(f'a domain with the name "{name}" exists already; choose another name', Fault.EXISTS)
        if uuid is not None and (uuid in self._reserved_uuids or any(record.uuid == uuid for record in self)):
            raise ToolstackError(f"a domain with the UUID {uuid.hex()} exists already", Fault.EXISTS)

    @contextlib.contextmanager
    def reserved(self, name: str, uuid: bytes) -> Iterator[None]:
        """Nobody else gets the name or the UUID meanwhile. The caller has checked that they are free or its own."""
        self._reserved_names.add(name)
        self._reserved_uuids.add(uuid)
        try:
            yield
        finally:
            self._reserved_names.discard(name)
            self._reserved_uuids.discard(uuid)

    async def states(self, domid: int, current: LifeState | None) -> AsyncGenerator[StateReached, None]:
        """The states that the domain is in and passes through, until it is destroyed: begins with what it went through already (shutdown,
        crash), or else with ``current``. Raises ``ToolstackError`` NOT_FOUND for a domain that never was or is long gone."""
        record = self._records.get(domid)
        if record is None:
            if domid not in self._departed:
                raise ToolstackError(f"there is no domain {domid}", Fault.NOT_FOUND)
            for reached in self._departed[domid]:
                yield reached
            return
        queue: asyncio.Queue[StateReached] = asyncio.Queue()
        if record.passed or current is None:
            for reached in record.passed:
                queue.put_nowait(reached)
        else:
            queue.put_nowait(StateReached(domid, current))
        record.waiting.add(queue)
        try:
            while True:
                reached = await queue.get()
                yield reached
                if reached.state is LifeState.DESTROYED:
                    return
        finally:
            record.waiting.discard(queue)
