"""One guest from its creation to its end, with its console: what ``pyxen run`` and ``pyxen demo`` share."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pyxen.cli.console_session import ConsoleEnd, ConsoleSession
from pyxen.cli.ending_signals import ending_signals_raise
from pyxen.cli.failures import EXIT_SUCCESS
from pyxen.cli.progress import progress_reporter
from pyxen.host.client import Client, Stream
from pyxen.host.protocol import (
    DOMAIN_CREATE,
    DOMAIN_DESTROY,
    DOMAIN_UNPAUSE,
    DOMAIN_WAIT,
    CreateRequest,
    DomainId,
    DomainState,
    HostError,
    StateChange,
    WaitRequest,
)


class GuestExit(enum.IntEnum):
    """Exit statuses that tell how a guest ended; below them are those of the command itself."""

    CRASHED = 3
    WATCHDOG = 4
    DESTROYED = 5


@dataclass(frozen=True)
class Ending:
    """How a guest ended."""

    shutdown_reason: str  #: empty: it was destroyed from outside
    crash_cause: str

    @property
    def status(self) -> int:
        if self.shutdown_reason == "crash":
            return GuestExit.CRASHED
        if self.shutdown_reason == "watchdog":
            return GuestExit.WATCHDOG
        return EXIT_SUCCESS if self.shutdown_reason else GuestExit.DESTROYED


class GuestRun:
    """A created, still paused guest. Within ``created_guest`` it is destroyed at the end unless ``kept``."""

    def __init__(self, client: Client, domid: int, name: str, states: Stream[StateChange, StateChange]) -> None:
        self._client = client
        self._states = states
        self.domid = domid
        self.name = name
        self.kept = False

    def start(self) -> None:
        self._client.call(DOMAIN_UNPAUSE, DomainId(self.domid))

    def attach(self) -> ConsoleEnd:
        """Start the guest with its console on the terminal, from its first byte."""
        return ConsoleSession(self._client, self.domid).run(self.start)

    def ending(self, timeout: float | None = None) -> Ending:
        """Wait until the guest is gone. ``timeout`` in seconds between two changes of its state; raises ``TimeoutError``."""
        reason = cause = ""
        while (change := self._states.read(timeout)) is not None:
            reason = change.shutdown_reason or reason
            cause = change.crash_cause or cause
        return Ending(reason, cause)


@contextlib.contextmanager
def created_guest(client: Client, config: dict[str, Any], working_directory: str) -> Iterator[GuestRun]:
    """Create a guest, paused. However the block ends, nothing of the guest is left, unless it was ``kept``. Raises ``HostError``."""
    request = CreateRequest(config=config, paused=True, working_directory=working_directory)
    with ending_signals_raise():
        with progress_reporter() as report:
            created = client.call(DOMAIN_CREATE, request, progress=report)
        guest: GuestRun | None = None
        try:
            with client.stream(DOMAIN_WAIT, WaitRequest(created.domid, [DomainState.DESTROYED])) as states:
                guest = GuestRun(client, created.domid, created.name, states)
                yield guest
        finally:
            if guest is None or not guest.kept:
                with contextlib.suppress(HostError):  # it is gone already; or the host is, and took it along
                    client.call(DOMAIN_DESTROY, DomainId(created.domid))
