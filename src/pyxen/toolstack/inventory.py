"""What there is: domains and vCPUs as ``xl list`` and ``xl vcpu-list`` show them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, DomainInfo, HypercallError, SchedulerParameters, VcpuInfo
from pyxen.toolstack.domain_record import DOMAIN_0_NAME, DomainRegistry, LifeState, reason_name, state_of
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.toolstack.names import uuid_text

_PAGE_KIB = 4
#: What xl shows of a domain that is no longer in the store, but still there.
_NO_NAME = "(null)"


@dataclass(frozen=True)
class DomainEntry:
    """One domain. Memory in KiB, times in seconds."""

    info: DomainInfo
    name: str
    uuid: str
    state: LifeState
    memory_kib: int
    memory_max_kib: int
    memory_target_kib: int
    uptime_s: float
    scheduling: SchedulerParameters | None  #: None: the scheduler of its pool has none

    @property
    def state_letters(self) -> str:
        """xl's six letters: running, blocked, paused, shut down, crashed, dying."""
        info = self.info
        crashed = self.state is LifeState.CRASHED
        flags = (info.running, info.blocked, info.paused, info.shutdown, crashed, info.dying)
        return "".join(letter if flag else "-" for letter, flag in zip("rbpscd", flags, strict=True))

    @property
    def shutdown_reason(self) -> str:
        return reason_name(self.info.shutdown_reason if self.info.shutdown else None)


@dataclass(frozen=True)
class VcpuEntry:
    """One vCPU of a named domain."""

    domid: int
    name: str
    info: VcpuInfo


class Inventory:
    """Looks at the hypervisor, the registry and the store; changes nothing."""

    def __init__(self, dom0: Dom0Hypercalls, registry: DomainRegistry, store: DomainStore) -> None:
        self._dom0 = dom0
        self._registry = registry
        self._store = store
        self._started = time.monotonic()

    def domains(self) -> list[DomainEntry]:
        """By id, Domain 0 first."""
        return [self._entry(info) for info in self._dom0.list_domains()]

    def domain(self, domid: int) -> DomainEntry:
        """Raises ``HypercallError`` ESRCH."""
        return self._entry(self._dom0.domain_info(domid))

    def vcpus(self, domid: int | None) -> list[VcpuEntry]:
        """Of one domain, or of all. Raises ``HypercallError`` ESRCH."""
        domids = [domid] if domid is not None else [info.domid for info in self._dom0.list_domains()]
        return [VcpuEntry(number, self.name(number), info) for number in domids for info in self._dom0.vcpu_info(number)]

    def name(self, domid: int) -> str:
        if domid == 0:
            return DOMAIN_0_NAME
        return self._registry.name(domid) or _NO_NAME

    def uptime(self, domid: int) -> float:
        """Seconds. Raises ``ToolstackError`` NOT_FOUND."""
        if domid == 0:
            return time.monotonic() - self._started
        record = self._registry.find(domid)
        if record is None:
            raise ToolstackError(f"there is no domain {domid}", Fault.NOT_FOUND)
        return record.uptime

    def _entry(self, info: DomainInfo) -> DomainEntry:
        record = self._registry.find(info.domid)
        memory_kib = (info.total_pages + info.outstanding_pages) * _PAGE_KIB
        target = self._store.memory_target(info.domid)
        return DomainEntry(
            info=info,
            name=self.name(info.domid),
            uuid=uuid_text(info.handle),
            state=state_of(info),
            memory_kib=memory_kib,
            memory_max_kib=info.max_pages * _PAGE_KIB,
            memory_target_kib=target if target is not None else memory_kib,
            uptime_s=record.uptime if record is not None else self.uptime(0),
            scheduling=self._scheduling(info.domid),
        )

    def _scheduling(self, domid: int) -> SchedulerParameters | None:
        try:
            return self._dom0.scheduling.parameters(domid)
        except HypercallError:
            return None
