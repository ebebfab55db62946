"""Domain 0's privileged hypercalls (see ``dom0_interface``), on the hypervisor's own objects."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from pyxen.abi.arch_x86_64 import VGCF_in_kernel, vcpu_guest_context, xen_pfn_to_cr3
from pyxen.hypervisor import debug_keys, vcpu_context
from pyxen.hypervisor.dom0_interface import (
    DomainCounters,
    DomainInfo,
    GrantCopy,
    GrantLimits,
    GuestRegisters,
    HypercallError,
    PhysicalInfo,
    SchedulingHypercalls,
    ShutdownReason,
    TscMode,
    VcpuInfo,
    XenVersion,
)
from pyxen.hypervisor.domain_information import domain_counters, domain_info, vcpu_infos
from pyxen.hypervisor.frame_hold import FrameHold
from pyxen.hypervisor.frame_table import L4
from pyxen.hypervisor.frame_views import FrameViews
from pyxen.hypervisor.grant_device import GrantDevice
from pyxen.hypervisor.hvm import processor_reset
from pyxen.hypervisor.hvm.container import HvmContainer
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.machine_memory import Frames
from pyxen.hypervisor.scheduling.control import SchedulingControl
from pyxen.hypervisor.xen_version import VERSION

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hypervisor import Hypervisor

MAX_VCPUS = 16
END_TIMEOUT_S = 1.0
RELEASE_TIMEOUT_S = 30.0
#: Frames that are allocated or written at once.
PIECE_FRAMES = 256


class Dom0:
    """Implements ``Dom0Hypercalls``. Every method takes the hypervisor lock itself."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._lock = hypervisor.lock
        self._views = FrameViews(hypervisor)
        self._grants = GrantDevice(hypervisor, self._views)
        self.scheduling: SchedulingHypercalls = SchedulingControl(hypervisor)

    @contextmanager
    def _guest(self, domid: int) -> Iterator[Domain]:
        """The domain, with the lock held. ESRCH; EINVAL for Domain 0 itself."""
        with self._lock:
            domain = self._hypervisor.domain(domid)
            if not domid:
                raise HypercallError(errno.EINVAL, "Domain 0 can't do that to itself")
            yield domain

    @contextmanager
    def _living_guest(self, domid: int) -> Iterator[Domain]:
        """As ``_guest``; EINVAL for a domain that is dying."""
        with self._guest(domid) as domain:
            if domain.dying:
                raise HypercallError(errno.EINVAL, f"domain {domid} is dying")
            yield domain

    @property
    def _nr_cpus(self) -> int:
        return len(self._hypervisor.dispatcher.processors)

    # -- domctl --------------------------------------------------------------------------------------------------------
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
        """XEN_DOMCTL_createdomain."""
        if kind not in ("pv", "pvh"):
            raise HypercallError(errno.EOPNOTSUPP, f"domains of type {kind} are not supported yet")
        if not 1 <= max_grant_frames <= 4096 or not 0 <= max_maptrack_frames <= 1 << 16 or max_grant_version not in (1, 2):
            raise HypercallError(errno.EINVAL, "limits of grants: 1 to 4096 table frames, up to 65536 maptrack frames, version 1 or 2")
        limits = GrantLimits(max_grant_frames, max_maptrack_frames, max_grant_version)
        if not 1 <= max_vcpus <= MAX_VCPUS:
            raise HypercallError(errno.EINVAL, f"a domain has 1 to {MAX_VCPUS} vCPUs, not {max_vcpus}")
        if len(handle) != 16 or max_evtchn_port < 1:
            raise HypercallError(errno.EINVAL, "a handle of 16 octets and at least one event-channel port are needed")
        with self._lock:
            pool = self._hypervisor.dispatcher.pool(cpupool)
            if not pool.processors:
                raise HypercallError(errno.EBUSY, f"CPU pool {cpupool} has no CPUs")
            return self._hypervisor.create_domain(kind, handle, max_vcpus, max_evtchn_port, limits, pool).domid

    def set_tsc_info(self, domid: int, mode: TscMode, *, invariant: bool) -> None:
        """XEN_DOMCTL_settscinfo."""
        with self._living_guest(domid) as domain:
            domain.counter.set_mode(mode, invariant=invariant)

    def destroy_domain(self, domid: int) -> None:
        """XEN_DOMCTL_destroydomain. A vCPU thread that does not end soon is left behind with the domain, dying, and does the rest when it
        ends: its memory can't be given to others before."""
        with self._guest(domid) as domain:
            if domain.abandoned:
                return
            if domain.stopped:  # somebody else does it now, in pieces
                domain.exclusive_done.wait_for(lambda: domain.released, RELEASE_TIMEOUT_S)
                return
            domain.dying = True
            domain.settle_all()
            if not domain.exclusive_done.wait_for(lambda: domain.all_ended, END_TIMEOUT_S):
                domain.abandoned = True
                self._hypervisor.log(f"d{domid}: a vCPU does not leave the guest; the domain stays, dying, until it does")
                return
            domain.finish_death()
        for vcpu in domain.vcpus:
            if vcpu.thread is not None and vcpu.thread is not threading.current_thread():
                vcpu.thread.join()  # it has ended but for returning

    def pause_domain(self, domid: int) -> None:
        """Returns when no vCPU of it executes any more."""
        with self._living_guest(domid) as domain:
            domain.pause()
        for vcpu in domain.vcpus:
            self._hypervisor.has_left(vcpu)
        with self._lock:
            self._hypervisor.check_stopped(domain)
            for vcpu in domain.vcpus:
                # Its thread would account for it a little later; who asked for the pause sees its time stand still from now on.
                vcpu.settle()
            domain.publish("paused")

    def unpause_domain(self, domid: int) -> None:
        """One pause count less."""
        with self._living_guest(domid) as domain:
            domain.unpause()
            domain.publish("unpaused")

    def shutdown_domain(self, domid: int, reason: ShutdownReason) -> None:
        """SCHEDOP_remote_shutdown."""
        with self._living_guest(domid) as domain:
            domain.shut_down(reason)

    def resume_domain(self, domid: int) -> None:
        """XEN_DOMCTL_resumedomain."""
        with self._living_guest(domid) as domain:
            domain.resume()

    def set_max_memory(self, domid: int, pages: int) -> None:
        """XEN_DOMCTL_max_mem."""
        with self._living_guest(domid) as domain:
            if pages < 0:
                raise HypercallError(errno.EINVAL, f"{pages} pages")
            domain.max_pages = pages

    def domain_info(self, domid: int) -> DomainInfo:
        """XEN_DOMCTL_getdomaininfo."""
        with self._lock:
            return domain_info(self._hypervisor, self._hypervisor.domain(domid))

    def list_domains(self) -> list[DomainInfo]:
        """XEN_SYSCTL_getdomaininfolist."""
        with self._lock:
            return [domain_info(self._hypervisor, domain) for domain in self._hypervisor.domains()]

    def vcpu_info(self, domid: int) -> list[VcpuInfo]:
        """XEN_DOMCTL_getvcpuinfo of all vCPUs."""
        with self._lock:
            return vcpu_infos(self._hypervisor, self._hypervisor.domain(domid))

    def domain_counters(self, domid: int) -> DomainCounters:
        """What its vCPUs' exits were. ESRCH, EINVAL for Domain 0."""
        with self._guest(domid) as domain:
            return domain_counters(domain)

    def set_vcpu_context(self, domid: int, vcpu: int, registers: GuestRegisters) -> None:
        """XEN_DOMCTL_setvcpucontext; pins the L4 table, as the domain builder does."""
        context = vcpu_guest_context()
        context.flags = VGCF_in_kernel
        regs = context.user_regs
        regs.rip, regs.rsp, regs.rsi, regs.rflags = registers.rip, registers.rsp, registers.rsi, registers.rflags
        for name, value in registers.extra.items():
            setattr(regs, name, value)
        regs.cs, regs.ss = 0xE033, 0xE02B
        context.ctrlreg[3] = xen_pfn_to_cr3(registers.cr3_mfn)
        context.kernel_ss, context.kernel_sp = 0xE02B, registers.rsp
        context.vm_assist = registers.vm_assist
        with self._living_guest(domid) as domain:
            if not 0 <= vcpu < len(domain.vcpus):
                raise HypercallError(errno.EINVAL, f"domain {domid} has no vCPU {vcpu}")
            target = domain.vcpus[vcpu]
            if target.thread is not None:
                raise HypercallError(errno.EBUSY, f"vCPU {vcpu} of domain {domid} is up")
            frames = self._hypervisor.frames
            frames.pin(registers.cr3_mfn, domid, L4)
            try:
                vcpu_context.load(target, context)
            except HypercallError:
                frames.unpin(registers.cr3_mfn, domid)
                raise
            self._hypervisor.bring_up(target)

    def set_hvm_context(self, domid: int, entry: int, start_info: int) -> None:
        """XEN_DOMCTL_sethvmcontext of a PVH domain's first vCPU."""
        with self._living_guest(domid) as domain:
            self._container(domain)
            target = domain.vcpus[0]
            if not isinstance(target, HvmVcpu) or target.thread is not None:
                raise HypercallError(errno.EBUSY, f"vCPU 0 of domain {domid} is up")
            processor_reset.enter_at(target, entry & 0xFFFFFFFF, start_info)
            self._hypervisor.bring_up(target)

    def set_vcpu_affinity(self, domid: int, vcpu: int, hard: frozenset[int] | None, soft: frozenset[int] | None) -> None:
        """XEN_DOMCTL_setvcpuaffinity: None is every CPU. EINVAL for CPUs that are not there or not in the domain's pool."""
        with self._living_guest(domid) as domain:
            if not 0 <= vcpu < len(domain.vcpus):
                raise HypercallError(errno.EINVAL, f"domain {domid} has no vCPU {vcpu}")
            self._hypervisor.dispatcher.set_affinity(domain.vcpus[vcpu].unit, hard, soft)

    def send_nmi(self, domid: int, vcpu: int) -> None:
        """An NMI to one vCPU. EINVAL."""
        with self._living_guest(domid) as domain:
            if not 0 <= vcpu < len(domain.vcpus):
                raise HypercallError(errno.EINVAL, f"domain {domid} has no vCPU {vcpu}")
            domain.vcpus[vcpu].nmi_pending = True
            domain.vcpus[vcpu].wake()

    def subscribe_domain_exceptions(self, handler: Callable[[], None]) -> Callable[[], None]:
        """VIRQ_DOM_EXC."""
        with self._lock:
            return self._hypervisor.add_exception_handler(handler)

    # -- sysctl --------------------------------------------------------------------------------------------------------
    def physical_info(self) -> PhysicalInfo:
        """XEN_SYSCTL_physinfo."""
        with self._lock:
            memory, engine = self._hypervisor.memory, self._hypervisor.engine
            leaves = (engine.cpuid(1, 0), engine.cpuid(0x80000001, 0), engine.cpuid(7, 0))
            hw_caps = (leaves[0][3], leaves[0][2], leaves[1][3], leaves[1][2], 0, leaves[2][1], 0, 0)
            return PhysicalInfo(
                nr_cpus=self._nr_cpus,
                cpu_khz=int(self._hypervisor.guest_time.tsc_hz / 1000),
                total_pages=memory.total_frames,
                free_pages=memory.free_frames,
                scrub_pages=0,
                max_mfn=memory.total_frames - 1,
                hw_caps=hw_caps,
            )

    def version(self) -> XenVersion:
        """XENVER_*."""
        return VERSION

    def read_console_ring(self, *, clear: bool = False) -> str:
        """XEN_SYSCTL_readconsole."""
        return self._hypervisor.console.read(clear=clear)

    def log(self, text: str) -> None:
        """One line from Domain 0."""
        self._hypervisor.log(f"d0: {text}")

    def debug_keys(self, keys: str) -> None:
        """XEN_SYSCTL_debug_keys."""
        with self._lock:
            for key in keys:
                debug_keys.handle(self._hypervisor, key)

    # -- memory --------------------------------------------------------------------------------------------------------
    def populate_physmap(self, domid: int, count: int) -> Frames:
        """XENMEM_populate_physmap for a domain under construction."""
        parts: list[Frames] = []
        try:
            for first in range(0, max(count, 1), PIECE_FRAMES):
                with self._living_guest(domid) as domain:
                    parts.append(domain.allocate_frames(min(PIECE_FRAMES, count - first)))
        except HypercallError:
            self._give_back(domid, parts)
            raise
        return np.concatenate(parts)

    def _give_back(self, domid: int, parts: list[Frames]) -> None:
        """Of an allocation that failed halfway. A domain that was destroyed meanwhile has lost them already."""
        for part in parts:
            with contextlib.suppress(HypercallError), self._living_guest(domid) as domain:
                for mfn in part.tolist():
                    domain.release_frame(mfn)

    def populate_guest_frames(self, domid: int, gfns: Frames) -> Frames:
        """XENMEM_populate_physmap for an HVM domain."""
        with self._living_guest(domid) as domain:
            container = self._container(domain)
            frames = domain.allocate_frames(len(gfns))
            try:
                container.physical_map.populate(gfns, frames)
            except HypercallError:
                for mfn in frames.tolist():
                    domain.release_frame(mfn)
                raise
            return frames

    def set_hvm_parameter(self, domid: int, index: int, value: int) -> None:
        """HVMOP_set_param."""
        with self._living_guest(domid) as domain:
            container = self._container(domain)
            if not 0 <= index < len(container.parameters):
                raise HypercallError(errno.EINVAL, f"HVM parameter {index}")
            container.parameters[index] = value

    def set_memory_map(self, domid: int, entries: Sequence[tuple[int, int, int]]) -> None:
        """XENMEM_set_memory_map."""
        with self._living_guest(domid) as domain:
            self._container(domain).memory_map = list(entries)

    def _container(self, domain: Domain) -> HvmContainer:
        if domain.hvm is None:
            raise HypercallError(errno.EINVAL, f"domain {domain.domid} is not an HVM domain")
        return domain.hvm

    def map_foreign(self, domid: int, mfn: int) -> memoryview:
        """A view of one frame of the domain."""
        with self._guest(domid) as domain:
            self._check_owned(domain, mfn)
            frames = self._hypervisor.frames
            hold = domain.foreign_maps.get(mfn) or FrameHold(mfn)
            try:
                hold.take(frames, domid, writable=True)
            except HypercallError:
                hold.take(frames, domid, writable=False)
            domain.foreign_maps[mfn] = hold
            hold.accesses.append(hold.writable)
            return self._views.give(mfn, writable=hold.writable)

    def unmap_foreign(self, domid: int, mfn: int) -> None:
        """Give one mapping back. EINVAL when there is none."""
        with self._guest(domid) as domain:
            hold = domain.foreign_maps.get(mfn)
            if hold is None or not hold.accesses:
                raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is not mapped")
            if self._views.take_back(mfn, lambda: self._drop_foreign(domain, hold), writable=hold.accesses.pop()):
                self._drop_foreign(domain, hold)

    def _drop_foreign(self, domain: Domain, hold: FrameHold) -> None:
        """Nothing of a mapping is left."""
        if hold.times == 1:
            del domain.foreign_maps[hold.mfn]
        if hold.writable:
            self._hypervisor.note_write(hold.mfn)
        hold.drop(self._hypervisor.frames)
        self._hypervisor.finish_if_dead(domain)

    def _check_owned(self, domain: Domain, mfn: int) -> None:
        memory = self._hypervisor.memory
        if not 0 < mfn < memory.total_frames or memory.owner[mfn] != domain.domid:
            raise HypercallError(errno.EPERM, f"frame {mfn:#x} is not domain {domain.domid}'s")

    def _check_all_owned(self, domid: int, mfns: Frames) -> None:
        memory = self._hypervisor.memory
        if not len(mfns):
            return
        if int(mfns.max()) >= memory.total_frames:
            raise HypercallError(errno.EINVAL, "a frame is outside machine memory")
        if (memory.owners[mfns] != domid).any():
            raise HypercallError(errno.EPERM, f"a frame is not domain {domid}'s")

    def write_foreign(self, domid: int, mfns: Frames, data: bytes | memoryview) -> None:
        """Copy to consecutive frames of the list, in pieces."""
        pages = -(-len(data) // 4096)
        if pages > len(mfns):
            raise HypercallError(errno.EINVAL, "more data than frames")
        view = memoryview(data).cast("B")
        for first in range(0, pages, PIECE_FRAMES):
            self._write_piece(domid, mfns[first : first + PIECE_FRAMES], view[first * 4096 : (first + PIECE_FRAMES) * 4096])

    def _write_piece(self, domid: int, mfns: Frames, data: memoryview) -> None:
        pages = -(-len(data) // 4096)
        with self._living_guest(domid):
            memory = self._hypervisor.memory
            self._check_all_owned(domid, mfns[:pages])
            if self._hypervisor.frames.any_table(mfns[:pages]):
                raise HypercallError(errno.EBUSY, "a frame is a page table or descriptor page")
            whole = len(data) // 4096
            if whole:
                memory.tables[mfns[:whole]] = np.frombuffer(data, dtype=np.uint64, count=whole * 512).reshape(whole, 512)
            if pages > whole:
                rest = data[whole * 4096 :]
                start = int(mfns[whole]) << 12
                memory.octets[start : start + len(rest)] = rest

    def set_p2m(self, domid: int, mfns: Frames) -> None:
        """PFN i is frame mfns[i]."""
        with self._living_guest(domid):
            self._check_all_owned(domid, mfns)
            self._hypervisor.m2p_array[mfns] = np.arange(len(mfns), dtype=np.uint64)

    def shared_info_frame(self, domid: int) -> int:
        """MFN of the shared info page."""
        with self._guest(domid) as domain:
            return domain.shared_info >> 12

    def memory_list(self, domid: int) -> Frames:
        """XEN_DOMCTL_getmemlist."""
        with self._guest(domid):
            return np.flatnonzero(self._hypervisor.memory.owners == domid).astype(np.uint64)

    # -- event channels --------------------------------------------------------------------------------------------------
    def evtchn_alloc_unbound(self, domid: int, remote_domid: int) -> int:
        """EVTCHNOP_alloc_unbound on behalf of ``domid``."""
        with self._guest(domid) as domain:
            return domain.event_channels.alloc_unbound(remote_domid)

    def bind_interdomain(self, remote_domid: int, remote_port: int, handler: Callable[[], None]) -> int:
        """EVTCHNOP_bind_interdomain."""
        with self._lock:
            return self._hypervisor.domain(0).event_channels.bind_interdomain(remote_domid, remote_port, handler)

    def notify(self, port: int) -> None:
        """EVTCHNOP_send."""
        with self._lock:
            self._hypervisor.domain(0).event_channels.send(port)

    def close_port(self, port: int) -> None:
        """EVTCHNOP_close."""
        with self._lock:
            self._hypervisor.domain(0).event_channels.close(port)

    # -- grants ----------------------------------------------------------------------------------------------------------
    def map_grant(self, domid: int, reference: int, *, writable: bool) -> memoryview:
        """A view of a granted frame."""
        return self.map_grants(domid, (reference,), writable=writable)[0]

    def unmap_grant(self, domid: int, reference: int) -> None:
        """Give the mapping back."""
        self.unmap_grants(domid, (reference,))

    def map_grants(self, domid: int, references: Sequence[int], *, writable: bool) -> list[memoryview]:
        """Views of granted frames."""
        with self._guest(domid) as domain:
            return self._grants.map(domain, references, writable=writable)

    def unmap_grants(self, domid: int, references: Sequence[int], *, writable: bool | None = None) -> None:
        """Give mappings back."""
        with self._guest(domid) as domain:
            self._grants.unmap(domain, references, writable)

    def grant_copy(self, operations: Sequence[GrantCopy]) -> list[int]:
        """Copy from and to granted pages."""
        with self._lock:
            return self._grants.copy(operations)

    def set_grant_entry(self, domid: int, reference: int, granted_domid: int, mfn: int) -> None:
        """Seed an entry of a domain under construction."""
        with self._living_guest(domid) as domain:
            self._check_owned(domain, mfn)
            domain.grant_table.seed(reference, granted_domid, domain.guest_frame(mfn))
