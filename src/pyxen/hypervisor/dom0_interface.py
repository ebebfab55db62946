"""What Domain 0 can ask of the hypervisor: the privileged hypercalls as typed Python calls.

``xenstore/``, ``backends/`` and ``toolstack/`` reach the hypervisor and the guests through this interface only. It has the shape
of the devices that a Linux Domain 0 gives its programs: privcmd (domctl, sysctl, memory_op, foreign mappings), evtchn, gntdev.
Every refusal is a ``HypercallError`` that carries Xen's errno.

Threads: every method may be called from any thread. Handlers given to ``bind_*`` run with the hypervisor lock held, on the
thread that caused the event: they must not block and must not call back into this interface; an asyncio user hands over by
``loop.call_soon_threadsafe``, and does so once for any number of events till its turn comes: a guest may send without end.
"""

from __future__ import annotations

import enum
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

DOMID_SELF = 0x7FF0

#: An array of MFNs.
Frames = npt.NDArray[np.uint64]


class HypercallError(Exception):
    """A hypercall was refused. ``errno`` is positive (``errno.EINVAL``); Xen's number is its negative."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{reason} ({errno.errorcode.get(number, number)})")
        self.errno = number
        self.reason = reason


class ShutdownReason(enum.IntEnum):
    """SHUTDOWN_* of sched.h."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2
    CRASH = 3
    WATCHDOG = 4
    SOFT_RESET = 5


@dataclass(frozen=True)
class VcpuInfo:
    """XEN_DOMCTL_getvcpuinfo and getvcpuaffinity of one vCPU."""

    vcpu: int
    online: bool
    blocked: bool
    running: bool
    cpu_time_ns: int
    cpu: int  #: physical CPU it last ran on
    hard_affinity: frozenset[int] | None = None  #: None: all
    soft_affinity: frozenset[int] | None = None
    runstate_ns: tuple[int, int, int, int] = (0, 0, 0, 0)  #: time running, runnable, blocked, offline (RUNSTATE_*), up to now


@dataclass(frozen=True)
class DomainInfo:
    """XEN_DOMCTL_getdomaininfo."""

    domid: int
    handle: bytes  #: 16 bytes, the UUID
    kind: str  #: "pv", "pvh", "hvm", or "dom0"
    running: bool
    blocked: bool
    paused: bool
    dying: bool
    shutdown: bool
    shutdown_reason: ShutdownReason | None
    crash_cause: str  #: one line, empty unless crashed by the hypervisor
    total_pages: int
    max_pages: int
    outstanding_pages: int
    shared_info_frame: int  #: MFN
    cpu_time_ns: int
    max_vcpu_id: int
    online_vcpus: int
    ssidref: int = 0
    cpupool: int = 0
    executing_for_ns: int | None = None  #: time since its first vCPU first executed; None: it never did


@dataclass(frozen=True)
class DomainCounters:
    """What a domain's vCPUs did, since its creation. An exit leaves the engine and is served in Python with the hypervisor's lock; what is
    ``native`` is served inside the engine. A multicall's calls count as hypercalls too."""

    exits: dict[str, int]  #: by reason: "kick", "exception", "syscall", "io", ...
    hypercalls: dict[str, int]  #: by name, served in Python
    native: dict[str, int]  #: "system_call", "page_fault", "event_upcall"
    native_hypercalls: dict[str, int]  #: by name
    tlb_flushes: int  #: of a whole TLB, asked for


@dataclass(frozen=True)
class PhysicalInfo:
    """XEN_SYSCTL_physinfo and what ``xl info`` shows of the host. Memory in pages of 4 KiB."""

    nr_cpus: int
    cpu_khz: int
    total_pages: int
    free_pages: int
    scrub_pages: int
    max_mfn: int
    hw_caps: tuple[int, ...]


@dataclass(frozen=True)
class SchedulerParameters:
    """XEN_DOMCTL_SCHEDOP_putinfo of Credit2."""

    weight: int  #: 1 to 65535; 256 is the default
    cap: int  #: percent of one CPU; 0: none


@dataclass(frozen=True)
class CpuPoolInfo:
    """XEN_SYSCTL_CPUPOOL_OP_INFO."""

    number: int
    scheduler: str  #: "credit2", "null", "rr"
    cpus: frozenset[int]
    domains: int  #: how many are in it


@dataclass(frozen=True)
class XenVersion:
    """XENVER_* as ``xl info`` shows them."""

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


class TscMode(enum.IntEnum):
    """How a domain gets its time-stamp counter (xen-tscmode(7); tsc_mode of Xen's time leaf, arch-x86/cpuid.h)."""

    DEFAULT = 0  #: natively if the host's counter can be relied on
    ALWAYS_EMULATE = 1
    NATIVE = 2


@dataclass(frozen=True)
class GrantLimits:
    """What a domain may have of grants (xl.cfg: max_grant_frames, max_maptrack_frames, max_grant_version)."""

    max_grant_frames: int
    max_maptrack_frames: int
    max_grant_version: int


@dataclass(frozen=True)
class GrantCopy:
    """One copy between Domain 0's memory ``local`` (contiguous, at most one page) and a granted page, from octet ``offset`` on."""

    domid: int
    reference: int
    offset: int
    local: memoryview
    to_guest: bool


@dataclass
class GuestRegisters:
    """Initial state of a PV64 vCPU: what vcpu_guest_context carries for a new domain. All else starts as Xen's ABI says."""

    rip: int
    rsp: int
    rsi: int = 0
    cr3_mfn: int = 0  #: MFN of the L4 table
    rflags: int = 1 << 9
    vm_assist: int = 0
    extra: dict[str, int] = field(default_factory=dict)


class SchedulingHypercalls(Protocol):
    """Scheduler parameters and CPU pools. EINVAL where a pool's scheduler is not Credit2, ENOENT for a pool that is not there."""

    def parameters(self, domid: int) -> SchedulerParameters:
        """ESRCH, EINVAL."""

    def set_parameters(self, domid: int, parameters: SchedulerParameters) -> None:
        """EINVAL outside the ranges (the cap is at most 100 for each vCPU), and for Domain 0, which the host schedules; ESRCH."""

    def ratelimit_us(self, pool: int) -> int:
        """How long a vCPU that got a CPU keeps it at least."""

    def set_ratelimit_us(self, pool: int, microseconds: int) -> None:
        """100 to 500000, or 0 for none. EINVAL."""

    def cpupools(self) -> list[CpuPoolInfo]:
        """All, by number. Pool 0 is always there."""

    def create_cpupool(self, scheduler: str) -> int:
        """-> the number of a new pool without CPUs. EINVAL for an unknown scheduler."""

    def destroy_cpupool(self, pool: int) -> None:
        """EBUSY while it has CPUs or domains, EPERM for pool 0."""

    def add_cpu(self, pool: int, cpu: int) -> None:
        """EBUSY for a CPU that is in a pool, EINVAL for one that is not there."""

    def remove_cpu(self, pool: int, cpu: int) -> None:
        """EINVAL for a CPU that is not in the pool, EBUSY for the last one of a pool with domains."""

    def move_domain(self, domid: int, pool: int) -> None:
        """It has the parameters and affinities of a new domain then. EBUSY for a pool without CPUs, EINVAL for Domain 0, ESRCH."""

    def free_cpus(self) -> frozenset[int]:
        """Those in no pool."""


class Dom0Hypercalls(Protocol):
    """See the module's text. Domain ids are 0..0x7fef; frames are MFNs; memory amounts are pages unless a name says kib."""

    scheduling: SchedulingHypercalls

    # -- domctl ---------------------------------------------------------------------------------------------------
    def create_domain(
        self,
        *,
        kind: str,
        handle: bytes,
        max_vcpus: int,
        max_evtchn_port: int = 1023,
        max_grant_frames: int = 64,
        max_maptrack_frames: int = 1024,
        max_grant_version: int = 2,
        cpupool: int = 0,
    ) -> int:
        """XEN_DOMCTL_createdomain: an empty, paused (one pause count) domain with no memory. -> domid.
        EINVAL for a bad argument, ENOMEM when the host can't give the bookkeeping, ENOSPC when all ids are in use."""

    def set_tsc_info(self, domid: int, mode: TscMode, *, invariant: bool) -> None:
        """XEN_DOMCTL_settscinfo, before the domain runs. ``invariant``: tell the guest that its counter never changes its frequency. ESRCH,
        EINVAL for Domain 0."""

    def destroy_domain(self, domid: int) -> None:
        """XEN_DOMCTL_destroydomain: stop it at once (even one that loops with events masked), close its ports, free and scrub its
        frames. Frames still mapped elsewhere keep it dying until they are unmapped, and so does a vCPU that does not leave the guest
        (a defect of the engine). ESRCH, EINVAL for Domain 0."""

    def pause_domain(self, domid: int) -> None:
        """One pause count more; returns when no vCPU of it executes. ESRCH, EINVAL for Domain 0 or a dying domain; EBUSY, and the domain is
        crashed, when a vCPU does not leave the guest."""

    def unpause_domain(self, domid: int) -> None: ...

    def shutdown_domain(self, domid: int, reason: ShutdownReason) -> None:
        """SCHEDOP_remote_shutdown."""

    def resume_domain(self, domid: int) -> None:
        """XEN_DOMCTL_resumedomain, after a suspend."""

    def set_max_memory(self, domid: int, pages: int) -> None:
        """XEN_DOMCTL_max_mem."""

    def domain_info(self, domid: int) -> DomainInfo:
        """ESRCH when there is no such domain."""

    def list_domains(self) -> list[DomainInfo]:
        """All domains, Domain 0 first, by id."""

    def vcpu_info(self, domid: int) -> list[VcpuInfo]: ...

    def domain_counters(self, domid: int) -> DomainCounters:
        """ESRCH, EINVAL for Domain 0."""

    def set_vcpu_context(self, domid: int, vcpu: int, registers: GuestRegisters) -> None:
        """XEN_DOMCTL_setvcpucontext for the boot vCPU of a new PV domain; brings it online. EINVAL for a frame that is not a valid,
        owned page table (the L4 is validated and pinned here)."""

    def set_hvm_context(self, domid: int, entry: int, start_info: int) -> None:
        """XEN_DOMCTL_sethvmcontext for the boot vCPU of a new PVH domain: 32-bit protected mode without paging, at physical address
        ``entry``, EBX = ``start_info``; brings it online. EINVAL for a domain of another type, EBUSY when it is up."""

    def set_vcpu_affinity(self, domid: int, vcpu: int, hard: frozenset[int] | None, soft: frozenset[int] | None) -> None: ...

    def send_nmi(self, domid: int, vcpu: int) -> None:
        """``xl trigger DOMAIN nmi``."""

    def subscribe_domain_exceptions(self, handler: Callable[[], None]) -> Callable[[], None]:
        """VIRQ_DOM_EXC: some domain shut down, crashed, or finished dying. -> a function that unsubscribes."""

    # -- sysctl ---------------------------------------------------------------------------------------------------
    def physical_info(self) -> PhysicalInfo: ...
    def version(self) -> XenVersion: ...

    def read_console_ring(self, *, clear: bool = False) -> str:
        """XEN_SYSCTL_readconsole: the hypervisor's log (``xl dmesg``)."""

    def log(self, text: str) -> None:
        """CONSOLEIO_write by Domain 0: one line into the hypervisor's log."""

    def debug_keys(self, keys: str) -> None:
        """XEN_SYSCTL_debug_keys: the answer goes to the hypervisor's log."""

    # -- memory ---------------------------------------------------------------------------------------------------
    def populate_physmap(self, domid: int, count: int) -> Frames:
        """XENMEM_populate_physmap: give the domain ``count`` more zeroed frames. -> their MFNs. ENOMEM when the
        host has not enough free frames or the domain's maximum would be passed; then nothing was given."""

    def populate_guest_frames(self, domid: int, gfns: Frames) -> Frames:
        """XENMEM_populate_physmap for an HVM domain: new zeroed frames at these guest frame numbers. -> their MFNs, which is what all other
        calls here name frames by, also those of HVM domains. ENOMEM, EINVAL, EEXIST; then nothing was given."""

    def set_hvm_parameter(self, domid: int, index: int, value: int) -> None:
        """HVMOP_set_param: HVM_PARAM_*. EINVAL."""

    def set_memory_map(self, domid: int, entries: Sequence[tuple[int, int, int]]) -> None:
        """XENMEM_set_memory_map: (address, size, E820_* type) as XENMEM_memory_map answers it to the HVM domain. EINVAL."""

    def map_foreign(self, domid: int, mfn: int) -> memoryview:
        """A view of one frame (4096 bytes, format 'B') that the domain owns: writable, and then the guest can't make a page table of it
        meanwhile; read-only if it is a page table or descriptor page now. ESRCH, EPERM (not its frame). Call ``unmap_foreign`` when
        done: the frame can't be freed before."""

    def unmap_foreign(self, domid: int, mfn: int) -> None:
        """The mapping ends, and with the last one of a frame its views: their use is a ValueError. What was derived from a view (slices,
        arrays) must be gone before, else the frame stays in use until it is."""

    def write_foreign(self, domid: int, mfns: Frames, data: bytes | memoryview) -> None:
        """Copy ``data`` to the start of consecutive frames ``mfns`` (bulk form of map_foreign, for loading kernels and ramdisks)."""

    def set_p2m(self, domid: int, mfns: Frames) -> None:
        """The M2P entries for a PV domain under construction: pfn i is frame mfns[i] (MMU_MACHPHYS_UPDATE, in bulk)."""

    def shared_info_frame(self, domid: int) -> int: ...

    def memory_list(self, domid: int) -> Frames:
        """XEN_DOMCTL_getmemlist: the MFNs of all frames that the domain owns, in ascending order."""

    # -- event channels (Domain 0's end; ports are Domain 0's unless said) ------------------------------------------
    def evtchn_alloc_unbound(self, domid: int, remote_domid: int) -> int:
        """EVTCHNOP_alloc_unbound on behalf of ``domid``. -> port of ``domid``, to which ``remote_domid`` may bind."""

    def bind_interdomain(self, remote_domid: int, remote_port: int, handler: Callable[[], None]) -> int:
        """EVTCHNOP_bind_interdomain. ``handler`` is called for each event sent to the new local port. -> local port. EINVAL, ESRCH."""

    def notify(self, port: int) -> None:
        """EVTCHNOP_send on a port of Domain 0."""

    def close_port(self, port: int) -> None: ...

    # -- grants (gntdev) --------------------------------------------------------------------------------------------
    def map_grant(self, domid: int, reference: int, *, writable: bool) -> memoryview:
        """GNTTABOP_map_grant_ref into Domain 0: a view of the granted frame (4096 bytes). Raises for a bad reference."""

    def unmap_grant(self, domid: int, reference: int) -> None:
        """Give the newest mapping of the reference back. It must be done for a dying domain, too: its frame stays until then. EINVAL."""

    def map_grants(self, domid: int, references: Sequence[int], *, writable: bool) -> list[memoryview]:
        """``map_grant`` of many at once: all or none."""

    def unmap_grants(self, domid: int, references: Sequence[int], *, writable: bool | None = None) -> None:
        """``unmap_grant`` of many at once: all or none. ``writable``: the newest mapping of that access only. Who may have the same
        reference mapped in both ways must say so. Views end as with ``unmap_foreign``."""

    def grant_copy(self, operations: Sequence[GrantCopy]) -> list[int]:
        """GNTTABOP_copy. -> a status for each, 0 or a negative GNTST_*; the operations after a failed one are done all the same."""

    def set_grant_entry(self, domid: int, reference: int, granted_domid: int, mfn: int) -> None:
        """Seed a grant entry of a domain under construction (console and store pages, as libxl does)."""
