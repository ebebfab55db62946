"""The control protocol between the host process and its clients (``xl``, ``pyxen``, the Python API).

A Unix stream socket, ``<run-time folder>/host.sock``; one JSON object a line, UTF-8::

    -> {"id": 1, "method": "domain.create", "params": {...}}
    <- {"id": 1, "progress": {"stage": "unpacking the kernel", "done": 3, "total": 8}}     any number, for long calls
    <- {"id": 1, "event": {...}}                                                           any number, for streams
    <- {"id": 1, "result": {...}}    or    {"id": 1, "error": {"message": "...", "kind": "not-found", "errno": 3}}

Requests of one connection run side by side and are answered as they end. A client ends a stream by closing the connection or by
``{"cancel": 1}``. ``METHODS`` is the whole protocol: the table that the host serves and that clients use.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

P = TypeVar("P")
R = TypeVar("R")
E = TypeVar("E")

#: Longest line in either direction, in bytes. A configuration or a log excerpt is far smaller.
MAX_LINE_BYTES = 8 << 20

#: An xl.cfg(5) file as a mapping of its own keys ("name", "kernel", "memory", "disk", ...) to text, numbers and lists of those.
DomainConfig = dict[str, Any]


class ErrorKind(enum.StrEnum):
    """Who or what is at fault."""

    INVALID = "invalid"  #: an argument or the configuration
    NOT_FOUND = "not-found"  #: no such domain, file
    EXISTS = "exists"  #: the name or UUID is in use
    STATE = "state"  #: the domain is not in a state that allows it
    RESOURCE = "resource"  #: not enough memory, or another limit
    UNSUPPORTED = "unsupported"  #: pyxen does not do this
    TIMEOUT = "timeout"  #: the guest or the host did not answer in time
    GUEST = "guest"  #: the guest refused or failed
    PROTOCOL = "protocol"  #: a malformed request or answer
    INTERNAL = "internal"  #: a fault of pyxen itself
    HOST = "host"  #: the host process can't be started or reached


class HostError(Exception):
    """A request failed. ``str()`` is one line for the user."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INVALID, errno: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.errno = errno


class DomainState(enum.StrEnum):
    """What one waits for. A domain that runs or sleeps is ``RUNNING``."""

    RUNNING = "running"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    CRASHED = "crashed"
    DESTROYED = "destroyed"


# -- parameters and results ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Nothing:
    """No parameters, or no result beyond success."""


@dataclass(frozen=True)
class Progress:
    """How far a long call is. ``total`` 0: unknown."""

    stage: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class HostStatus:
    """The host process and its machine memory."""

    pid: int
    version: str
    started_at: float  #: seconds since 1970
    runtime_directory: str
    engine: str
    memory_bytes: int
    free_bytes: int
    domains: int  #: without Domain 0
    processors: int = 0  #: physical CPUs that the machine shows


@dataclass(frozen=True)
class LogRequest:
    """Which part of the host's own log."""

    lines: int = 200  #: the last so many; 0: all


@dataclass(frozen=True)
class Text:
    """Plain text for the user."""

    text: str


@dataclass(frozen=True)
class ConfigText:
    """A piece of xl.cfg(5) text. ``source`` names it in messages: "guest.cfg", "<stdin>", "command line"."""

    text: str
    source: str


@dataclass(frozen=True)
class CreateRequest:
    """A domain to create: from texts that are parsed one after another (a file, then overrides), or from a mapping."""

    texts: list[ConfigText] = field(default_factory=list)
    config: DomainConfig = field(default_factory=dict)  #: instead of texts
    paused: bool = False
    working_directory: str = ""  #: for relative paths in the configuration; empty: they are refused


@dataclass(frozen=True)
class CheckedConfig:
    """What a configuration means: ``xl create -n``."""

    libxl: dict[str, Any]  #: as ``xl create -n`` prints it
    config: DomainConfig
    warnings: list[str] = field(default_factory=list)  #: one line each, with file and line number


@dataclass(frozen=True)
class CreatedDomain:
    """The new domain."""

    domid: int
    name: str
    uuid: str
    warnings: list[str] = field(default_factory=list)  #: one line each, with file and line number


@dataclass(frozen=True)
class DomainId:
    """The one domain that a call is about."""

    domid: int


@dataclass(frozen=True)
class OptionalDomainId:
    """One domain, or all."""

    domid: int | None = None  #: None: all


@dataclass(frozen=True)
class ShutdownRequest:
    """A domain to shut down or reboot by its own kernel."""

    domid: int
    fallback: bool = False  #: xl's -F: an ACPI event when the guest has no PV control. PV guests have none: refused, as by xl


@dataclass(frozen=True)
class Identifier:
    """A domain as the user named it."""

    identifier: str  #: a name, or a number


@dataclass(frozen=True)
class ResolvedDomain:
    """The domain that an identifier means."""

    domid: int
    name: str
    uuid: str


@dataclass(frozen=True)
class RenameRequest:
    """A new name."""

    domid: int
    name: str


@dataclass(frozen=True)
class DomainDetail:
    """A line of ``xl list``, and more. State letters are r, b, p, s, c, d in xl's order."""

    domid: int
    name: str
    uuid: str
    kind: str  #: "pv", "pvh", "hvm", "dom0"
    state: DomainState
    state_letters: str  #: six places, "-" where not set: "r-----", "-b----", "---s--"
    shutdown_reason: str  #: "", "poweroff", "reboot", "suspend", "crash", "watchdog", "soft-reset"
    crash_cause: str
    memory_kib: int  #: what it has now
    memory_max_kib: int
    memory_target_kib: int
    vcpus: int  #: online
    vcpus_max: int
    cpu_time_s: float
    uptime_s: float
    security_label: str = "-"
    cpupool: str = "Pool-0"
    cpu_weight: int | None = None  #: None: the pool's scheduler has no weights
    cpu_cap: int | None = None  #: percent of one CPU, 0: none
    console_tty: str = ""
    ssidref: int = 0
    under_construction: bool = False  #: it is being created; nothing can be done with it yet


@dataclass(frozen=True)
class DomainList:
    """All domains by id, Domain 0 first."""

    domains: list[DomainDetail]


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


@dataclass(frozen=True)
class MemoryRequest:
    """An amount of memory for a domain."""

    domid: int
    kib: int


@dataclass(frozen=True)
class SysrqRequest:
    """A Linux magic SysRq key."""

    domid: int
    key: str  #: one character


@dataclass(frozen=True)
class TriggerRequest:
    """An event of ``xl trigger``."""

    domid: int
    trigger: str  #: "nmi", "reset", "init", "power", "sleep", "s3resume"
    vcpu: int = 0


@dataclass(frozen=True)
class ConfigUpdateRequest:
    """A configuration for the next start of the domain; as in ``CreateRequest``."""

    domid: int
    texts: list[ConfigText] = field(default_factory=list)
    config: DomainConfig = field(default_factory=dict)
    working_directory: str = ""


@dataclass(frozen=True)
class WaitRequest:
    """States to wait for, any of them."""

    domid: int
    states: list[DomainState]


@dataclass(frozen=True)
class StateChange:
    """One state of the domain. ``shutdown_reason`` and ``crash_cause`` as in ``DomainDetail``."""

    domid: int
    state: DomainState
    shutdown_reason: str = ""
    crash_cause: str = ""


@dataclass(frozen=True)
class DomainConfiguration:
    """What ``xl list -l`` prints: libxl's JSON of the configuration, and the file's own keys for ``pyxen``."""

    domid: int
    libxl: dict[str, Any]
    config: DomainConfig


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


@dataclass(frozen=True)
class Statistics:
    """All domains, Domain 0 first."""

    time_s: float  #: of a clock that only runs forward
    cpus: int
    cpu_khz: int
    memory_kib: int
    free_kib: int
    domains: list[DomainStatistics]


@dataclass(frozen=True)
class Uptime:
    """Seconds since the domain was created."""

    domid: int
    name: str
    seconds: float


@dataclass(frozen=True)
class UptimeList:
    """A line each of ``xl uptime``."""

    uptimes: list[Uptime]


@dataclass(frozen=True)
class Version:
    """XENVER_* as ``xl info`` prints them."""

    major: int
    minor: int
    extra: str
    capabilities: str
    changeset: str
    compiler: str
    compile_by: str
    compile_domain: str
    compile_date: str
    command_line: str
    virt_start: int
    page_size: int
    build_id: str


@dataclass(frozen=True)
class PhysInfo:
    """What ``xl info`` prints of the machine."""

    nr_cpus: int
    cpu_khz: int
    total_kib: int
    free_kib: int
    scrub_kib: int
    outstanding_kib: int
    max_mfn: int
    hw_caps: list[int]
    version: Version
    engine: str
    scheduler: str = ""  #: of Pool-0
    free_cpus: int = 0  #: in no CPU pool


@dataclass(frozen=True)
class DmesgRequest:
    """The hypervisor's log."""

    clear: bool = False


@dataclass(frozen=True)
class DebugKeysRequest:
    """Keys for the hypervisor's debug handlers; the answer is in the hypervisor's log."""

    keys: str


@dataclass(frozen=True)
class ConsolePath:
    """Where the console can be opened."""

    path: str  #: slave side of the pseudo-terminal


@dataclass(frozen=True)
class ConsoleAttachRequest:
    """A reader of the console."""

    domid: int
    replay: bool = True  #: begin with the output that the host still has; False: with what comes next


@dataclass(frozen=True)
class ConsoleOutput:
    """Some console output."""

    data: bytes
    lost: int = 0  #: bytes before ``data`` that this reader was too slow for
    replayed: bool = False  #: it is from before the attachment


@dataclass(frozen=True)
class ConsoleInput:
    """Keys for the console."""

    domid: int
    data: bytes


@dataclass(frozen=True)
class ConsoleAccepted:
    """How much of the input was taken."""

    accepted: int  #: bytes taken; fewer than sent when the guest does not read


@dataclass(frozen=True)
class TraceRequest:
    """What to trace."""

    domid: int | None = None  #: None: all domains
    kinds: list[str] = field(default_factory=list)  #: "hypercall", "event", "lifecycle"; empty: all
    names: list[str] = field(default_factory=list)  #: only hypercalls of these names; empty: all


@dataclass(frozen=True)
class TraceEvent:
    """One hypercall, event or change of life cycle."""

    kind: str  #: "hypercall", "event", "lifecycle"
    time_ns: int  #: host's monotonic clock
    domid: int
    vcpu: int
    name: str  #: "mmu_update", "event_channel_op", "EVTCHNOP_send", "created" ...
    arguments: dict[str, Any]
    result: int | None = None
    result_name: str = ""  #: "-EINVAL" and the like, empty for success
    dropped: int = 0  #: events before this one that the reader was too slow for


@dataclass(frozen=True)
class BlockAttachRequest:
    """A disk to hot-plug."""

    domid: int
    specification: str  #: as an entry of ``disk=``, xl-disk-configuration(5)
    working_directory: str = ""  #: where a relative path starts


@dataclass(frozen=True)
class BlockDetachRequest:
    """A disk to unplug."""

    domid: int
    vdev: str  #: its name or number: "xvdb", "51728"
    force: bool = False  #: whatever the guest does with it


@dataclass(frozen=True)
class MediumRequest:
    """What is to be in a CD drive."""

    domid: int
    vdev: str  #: the drive's name or number
    target: str  #: an image; empty: nothing
    working_directory: str = ""  #: where a relative path starts


@dataclass(frozen=True)
class BlockDevice:
    """A disk of a domain."""

    devid: int
    vdev: str
    target: str
    writable: bool
    state: int  #: of the backend, as in io/xenbus.h
    event_channel: int  #: -1: not connected
    ring_reference: int  #: -1: not connected
    backend_path: str


@dataclass(frozen=True)
class BlockDeviceList:
    """Disks by number."""

    devices: list[BlockDevice]


@dataclass(frozen=True)
class BackendRestartRequest:
    """A device whose backend is to be started anew."""

    domid: int
    device: str  #: a disk's name or number ("xvda"), "vif0", or its class and number ("vbd/51712", "vif/0")


@dataclass(frozen=True)
class NetworkAttachRequest:
    """A network interface to hot-plug."""

    domid: int
    specification: str  #: as an entry of ``vif=``, xl-network-configuration(5)


@dataclass(frozen=True)
class NetworkDetachRequest:
    """A network interface to unplug."""

    domid: int
    interface: str  #: its number or its MAC address
    force: bool = False  #: whatever the guest does with it


@dataclass(frozen=True)
class NetworkInterface:
    """A network interface of a domain."""

    devid: int
    mac: str
    state: int  #: of the backend, as in io/xenbus.h
    event_channel: int  #: -1: not connected
    tx_ring_reference: int  #: -1: not connected
    rx_ring_reference: int  #: -1: not connected
    backend_path: str
    bridge: str  #: a bridge of the host or a switch of pyxen's; empty: NAT
    rx_bytes: int = 0  #: as the host sees it: what it got from the guest
    rx_packets: int = 0
    rx_errors: int = 0
    tx_bytes: int = 0  #: what it gave to the guest
    tx_packets: int = 0
    tx_dropped: int = 0


@dataclass(frozen=True)
class NetworkCaptureRequest:
    """An interface whose frames are wanted."""

    domid: int
    devid: int


@dataclass(frozen=True)
class CapturedData:
    """The next part of a capture file, as of pcap-savefile(5)."""

    data: bytes
    lost: int = 0  #: frames that are missing before this part


@dataclass(frozen=True)
class NetworkInterfaceList:
    """Interfaces by number."""

    interfaces: list[NetworkInterface]


# -- the table -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Method(Generic[P, R]):
    """A call: parameters in, one result out."""

    name: str
    parameters: type[P]
    result: type[R]


@dataclass(frozen=True)
class StreamMethod(Generic[P, E, R]):
    """A call that sends events until it ends with a result."""

    name: str
    parameters: type[P]
    event: type[E]
    result: type[R]


HOST_STATUS = Method("host.status", Nothing, HostStatus)
HOST_STOP = Method("host.stop", Nothing, Nothing)
HOST_LOGS = Method("host.logs", LogRequest, Text)

#: Check a configuration and do nothing.
CONFIG_CHECK = Method("config.check", CreateRequest, CheckedConfig)
DOMAIN_CREATE = Method("domain.create", CreateRequest, CreatedDomain)
DOMAIN_DESTROY = Method("domain.destroy", DomainId, Nothing)
DOMAIN_PAUSE = Method("domain.pause", DomainId, Nothing)
DOMAIN_UNPAUSE = Method("domain.unpause", DomainId, Nothing)
#: Answers when the guest acknowledged the request (not when it is down: ``DOMAIN_WAIT``).
DOMAIN_SHUTDOWN = Method("domain.shutdown", ShutdownRequest, Nothing)
DOMAIN_REBOOT = Method("domain.reboot", ShutdownRequest, Nothing)
DOMAIN_RENAME = Method("domain.rename", RenameRequest, Nothing)
DOMAIN_RESOLVE = Method("domain.resolve", Identifier, ResolvedDomain)
DOMAIN_INFO = Method("domain.info", DomainId, DomainDetail)
DOMAIN_LIST = Method("domain.list", Nothing, DomainList)
DOMAIN_VCPUS = Method("domain.vcpus", OptionalDomainId, VcpuList)
DOMAIN_MEM_SET = Method("domain.mem_set", MemoryRequest, Nothing)
DOMAIN_MEM_MAX = Method("domain.mem_max", MemoryRequest, Nothing)
DOMAIN_VCPU_SET = Method("domain.vcpu_set", VcpuSetRequest, Nothing)
DOMAIN_VCPU_PIN = Method("domain.vcpu_pin", VcpuPinRequest, Nothing)
DOMAIN_SCHEDULING_SET = Method("domain.scheduling_set", SchedulingRequest, Nothing)
DOMAIN_SYSRQ = Method("domain.sysrq", SysrqRequest, Nothing)
DOMAIN_TRIGGER = Method("domain.trigger", TriggerRequest, Nothing)
DOMAIN_CONFIG = Method("domain.config", DomainId, DomainConfiguration)
DOMAIN_CONFIG_UPDATE = Method("domain.config_update", ConfigUpdateRequest, Nothing)
#: An event for each change of state; ends with the first state that is one of those asked for, or DESTROYED.
DOMAIN_WAIT = StreamMethod("domain.wait", WaitRequest, StateChange, StateChange)
DOMAIN_UPTIME = Method("domain.uptime", OptionalDomainId, UptimeList)

STATISTICS = Method("statistics", Nothing, Statistics)
PHYSINFO = Method("physinfo", Nothing, PhysInfo)
VERSION = Method("version", Nothing, Version)
DMESG = Method("dmesg", DmesgRequest, Text)
DEBUG_KEYS = Method("debug_keys", DebugKeysRequest, Nothing)

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

CONSOLE_PATH = Method("console.path", DomainId, ConsolePath)
#: The first event, without data, says that no output can be missed any more. Ends when the domain is gone and all its output was sent.
CONSOLE_ATTACH = StreamMethod("console.attach", ConsoleAttachRequest, ConsoleOutput, Nothing)
CONSOLE_WRITE = Method("console.write", ConsoleInput, ConsoleAccepted)

#: Answers when the backend has the disk (not when the guest has found it).
BLOCK_ATTACH = Method("block.attach", BlockAttachRequest, Nothing)
#: Answers when the guest has given the disk back.
BLOCK_DETACH = Method("block.detach", BlockDetachRequest, Nothing)
#: Answers when the backend has the new image. When it can't be used, the drive is empty.
BLOCK_MEDIUM = Method("block.medium", MediumRequest, Nothing)
BLOCK_LIST = Method("block.list", DomainId, BlockDeviceList)
#: Answers when the old backend holds nothing of the guest any more and the new one has begun.
BACKEND_RESTART = Method("backend.restart", BackendRestartRequest, Nothing)

#: Answers when the backend has the interface (not when the guest has found it).
NETWORK_ATTACH = Method("network.attach", NetworkAttachRequest, Nothing)
#: Answers when the guest has given the interface back.
NETWORK_DETACH = Method("network.detach", NetworkDetachRequest, Nothing)
NETWORK_LIST = Method("network.list", DomainId, NetworkInterfaceList)
#: Ends when the interface is gone.
NETWORK_CAPTURE = StreamMethod("network.capture", NetworkCaptureRequest, CapturedData, Nothing)

#: Ends when the traced domain is destroyed; never for all domains.
TRACE_SUBSCRIBE = StreamMethod("trace.subscribe", TraceRequest, TraceEvent, Nothing)

METHODS: dict[str, Method[Any, Any] | StreamMethod[Any, Any, Any]] = {
    method.name: method for method in tuple(globals().values()) if isinstance(method, Method | StreamMethod)
}
