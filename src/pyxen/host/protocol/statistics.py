"""The counters behind ``xl top``, ``pyxen stats`` and the metrics."""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.host.protocol.common import Method, Nothing


@dataclass(frozen=True)
class VcpuStatistics:
    """One vCPU. The four times add up to its age; Domain 0's have only the first."""

    vcpu: int
    online: bool
    cpu: int
    running_s: float
    runnable_s: float  #: it waited for a CPU
    blocked_s: float
    offline_s: float


@dataclass(frozen=True)
class DiskStatistics:
    """One disk, since its backend started. Sectors have 512 bytes."""

    devid: int
    vdev: str
    reads: int
    writes: int
    read_sectors: int
    written_sectors: int


@dataclass(frozen=True)
class NetworkStatistics:
    """One interface, as the guest sees it."""

    devid: int
    received_bytes: int
    received_packets: int
    dropped: int  #: on the way to the guest
    sent_bytes: int
    sent_packets: int
    errors: int  #: in what the guest sent


@dataclass(frozen=True)
class ExitCounters:
    """What a domain's vCPUs did since its creation. An exit leaves the engine and is served in Python; what is ``native`` is served within
    the engine. The calls of a multicall count too."""

    exits: dict[str, int]  #: by reason: "kick", "exception", "syscall", "io", ...
    hypercalls: dict[str, int]  #: by name, served in Python
    native: dict[str, int]  #: "system_call", "page_fault", "event_upcall"
    native_hypercalls: dict[str, int]  #: by name
    tlb_flushes: int  #: of a whole TLB, asked for


@dataclass(frozen=True)
class DomainStatistics:
    """What one domain uses."""

    domid: int
    name: str
    state_letters: str  #: as in ``DomainDetail``
    cpu_time_s: float
    memory_kib: int
    memory_max_kib: int
    vcpus: list[VcpuStatistics]
    disks: list[DiskStatistics]
    networks: list[NetworkStatistics]
    counters: ExitCounters | None = None  #: None: Domain 0


@dataclass(frozen=True)
class Statistics:
    """All domains, Domain 0 first."""

    time_s: float  #: of a clock that only runs forward
    cpus: int
    cpu_khz: int
    memory_kib: int
    free_kib: int
    domains: list[DomainStatistics]


STATISTICS = Method("statistics", Nothing, Statistics)
