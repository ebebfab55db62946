"""Calls about vCPUs, schedulers and CPU pools."""

from __future__ import annotations

from dataclasses import dataclass, field

from pyxen.host.protocol.common import Method, Nothing, OptionalDomainId
from pyxen.host.protocol.domains import ConfigText


@dataclass(frozen=True)
class Vcpu:
    """A line of ``xl vcpu-list``. Affinity None: all CPUs."""

    domid: int
    name: str
    vcpu: int
    cpu: int
    online: bool
    blocked: bool
    running: bool
    cpu_time_s: float
    hard_affinity: list[int] | None = None
    soft_affinity: list[int] | None = None
    runnable_s: float = 0.0  #: time that it waited for a CPU
    blocked_s: float = 0.0
    offline_s: float = 0.0


@dataclass(frozen=True)
class VcpuList:
    """The vCPUs by domain and number."""

    vcpus: list[Vcpu]


@dataclass(frozen=True)
class VcpuSetRequest:
    """How many vCPUs the guest's kernel shall use."""

    domid: int
    count: int


@dataclass(frozen=True)
class VcpuPinRequest:
    """Where vCPUs may run (hard) and prefer to run (soft): CPU lists as in xl(1). None: as it is."""

    domid: int
    vcpu: int | None = None  #: None: all
    hard: str | None = None
    soft: str | None = None


@dataclass(frozen=True)
class SchedulingRequest:
    """Parameters of Credit2. None: as it is."""

    domid: int
    weight: int | None = None  #: 1 to 65535
    cap: int | None = None  #: percent of one CPU, 0: none


@dataclass(frozen=True)
class CpuPool:
    """A line of ``xl cpupool-list``."""

    number: int
    name: str
    scheduler: str  #: "credit2", "null", "rr"
    cpus: list[int]
    domains: int
    ratelimit_us: int | None = None  #: None: its scheduler has no rate limit


@dataclass(frozen=True)
class CpuPoolList:
    """The pools by number, Pool-0 first."""

    pools: list[CpuPool]
    free_cpus: list[int]  #: in no pool


@dataclass(frozen=True)
class CpuPoolCreateRequest:
    """A new pool, of free CPUs."""

    name: str
    scheduler: str = ""  #: empty: that of Pool-0
    cpus: str | None = None  #: a CPU list; None: the first free CPU
    all_free: bool = False  #: all free CPUs instead
    warnings: list[str] = field(default_factory=list)  #: of the configuration that this was read from, one line each


@dataclass(frozen=True)
class CpuPoolTexts:
    """Pieces of xlcpupool.cfg(5) text."""

    texts: list[ConfigText]
    default_name: str = ""  #: of a pool whose texts have none


@dataclass(frozen=True)
class CpuPoolName:
    """A pool by its name or number."""

    pool: str


@dataclass(frozen=True)
class CpuPoolRenameRequest:
    """A new name."""

    pool: str
    name: str


@dataclass(frozen=True)
class CpuPoolCpusRequest:
    """CPUs to add or to remove."""

    pool: str
    cpus: str  #: a CPU list


@dataclass(frozen=True)
class Refusals:
    """A line for each part of a request that could not be done; the others were."""

    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CpuPoolMigrateRequest:
    """A domain to move to another pool."""

    domid: int
    pool: str


@dataclass(frozen=True)
class RatelimitRequest:
    """How long a vCPU of the pool that got a CPU keeps it at least."""

    pool: str
    microseconds: int  #: 100 to 500000, or 0 for none


DOMAIN_VCPUS = Method("domain.vcpus", OptionalDomainId, VcpuList)


DOMAIN_VCPU_SET = Method("domain.vcpu_set", VcpuSetRequest, Nothing)


DOMAIN_VCPU_PIN = Method("domain.vcpu_pin", VcpuPinRequest, Nothing)


DOMAIN_SCHEDULING_SET = Method("domain.scheduling_set", SchedulingRequest, Nothing)


CPUPOOL_LIST = Method("cpupool.list", Nothing, CpuPoolList)


#: What a configuration means. Does nothing.
CPUPOOL_CHECK = Method("cpupool.check", CpuPoolTexts, CpuPoolCreateRequest)


CPUPOOL_CREATE = Method("cpupool.create", CpuPoolCreateRequest, CpuPool)


CPUPOOL_DESTROY = Method("cpupool.destroy", CpuPoolName, Nothing)


CPUPOOL_RENAME = Method("cpupool.rename", CpuPoolRenameRequest, Nothing)


CPUPOOL_CPU_ADD = Method("cpupool.cpu_add", CpuPoolCpusRequest, Refusals)


CPUPOOL_CPU_REMOVE = Method("cpupool.cpu_remove", CpuPoolCpusRequest, Refusals)


CPUPOOL_MIGRATE = Method("cpupool.migrate", CpuPoolMigrateRequest, Nothing)


CPUPOOL_NUMA_SPLIT = Method("cpupool.numa_split", Nothing, Nothing)


CPUPOOL_RATELIMIT = Method("cpupool.ratelimit", RatelimitRequest, Nothing)
