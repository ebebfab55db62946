"""A domain: its memory, vCPUs, event channels, grants, and its life from creation to death."""

from __future__ import annotations

import ctypes
import errno
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from pyxen.abi.arch_x86_64 import XEN_LEGACY_MAX_VCPUS
from pyxen.abi.xen import VMASST_TYPE_architectural_iopl, VMASST_TYPE_writable_pagetables, shared_info, vcpu_info
from pyxen.engine.interface import DS, ES, FS, GS, Dirty, ExitReason
from pyxen.hypervisor import descriptors, grant_mapping, maptrack
from pyxen.hypervisor.address_space import AddressSpaces
from pyxen.hypervisor.cpuid import CpuidPolicy
from pyxen.hypervisor.dom0_interface import GrantLimits, HypercallError, ShutdownReason
from pyxen.hypervisor.event_channel import EventChannels
from pyxen.hypervisor.frame_hold import FrameHold
from pyxen.hypervisor.frame_table import ALLOCATED, NONE, WRITABLE, XEN_HEAP
from pyxen.hypervisor.gate import BLOCKS_SIZE, GateDomain, GateMember, GatePorts, KnownWrites, is_wanted, join
from pyxen.hypervisor.grant_table import GrantTable
from pyxen.hypervisor.guest_counter import GuestCounter
from pyxen.hypervisor.hooks import LifecycleEvent
from pyxen.hypervisor.hvm.container import HvmContainer
from pyxen.hypervisor.hvm.cpuid import HvmCpuidPolicy
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.interval_timer import IntervalTimer
from pyxen.hypervisor.machine_memory import OWNER_XEN, Frames
from pyxen.hypervisor.maptrack import Maptrack
from pyxen.hypervisor.page_tables import ACCESSED, PRESENT, RW
from pyxen.hypervisor.shared_page import WIDE
from pyxen.hypervisor.timers import Timer
from pyxen.hypervisor.vcpu import Vcpu

if TYPE_CHECKING:
    from pyxen.hypervisor.hypervisor import Hypervisor
    from pyxen.hypervisor.scheduling.cpu_pool import CpuPool

VCPU_INFO_OFFSET: int = shared_info.vcpu_info.offset
LAST_HYPERCALL_NUMBER = 55
MAX_UNIMPLEMENTED_NOTES = 100
#: Frames of a dead domain that are scrubbed at once, and frames of the machine that are searched at once for those of a domain.
FRAMES_PER_PIECE, FRAMES_PER_SEARCH = 256, 1 << 18
VCPU_INFO_SIZE = ctypes.sizeof(vcpu_info)


class Domain:
    """A domain, PV or PVH. ``shared_info`` is the machine address of its shared info page (0 for the embedded Domain 0).

    All methods are called with the hypervisor lock held.
    """

    per_domain_entry = GateMember()
    #: Not 0 while ``Hypervisor.breathe`` has given up the lock in the middle of work on this domain.
    exclusive = GateMember()
    vm_assist = GateMember()  #: bitmap of VMASST_TYPE_* that are on
    shared_info = GateMember()

    def __init__(self, hypervisor: Hypervisor, domid: int, *, kind: str, handle: bytes, max_evtchn_port: int, pool: CpuPool) -> None:
        self.hypervisor = hypervisor
        self.domid = domid
        self.gate = GateDomain(ctypes.addressof(hypervisor.frames.block), domid)
        self.known_writes = KnownWrites(self.gate)
        self.native_ports = GatePorts(self.gate)
        self.native_gate = 0  #: address of a vCPU's gate block, while native code may work on its page tables
        self.kind = kind
        self.handle = handle
        self.created_at = time.time()
        self.cpupool = pool
        self.vcpus: list[Vcpu] = []
        self.pause_count = 1
        self.dying = False
        self.stopped = False  # dying, and none of its vCPU threads lives any more
        self.abandoned = False  # dying, and nobody waits for its vCPU threads: the last of them does the rest
        #: What has to wait until no vCPU of it runs any more, because one could not be stopped.
        self.when_stopped: list[Callable[[], None]] = []
        self.released = False  # stopped, and nothing is left of it but frames that other domains hold
        self.is_shut_down = False
        self.shutdown_reason: ShutdownReason | None = None
        self.crash_cause = ""
        self.max_pages = 0
        self.total_pages = 0
        self.shared_info = 0
        self.shared_layout = WIDE
        #: Notified when that is over, and when a vCPU thread has ended.
        self.exclusive_done = hypervisor.lock.condition()
        self.console_tail = ""
        self.shutdown_code: ShutdownReason | None = None
        self.watchdogs: dict[int, Timer] = {}
        self.exits = [0] * len(ExitReason)
        self.hypercalls: dict[int, int] = {}
        self.unimplemented: set[str] = set()
        self.event_channels = EventChannels(self, max_evtchn_port)
        self.interval_timer = IntervalTimer(hypervisor.now)
        self.cmos_index = 0  # what was last written to port 0x70
        self.pci_address = 0  # what was last written to port 0xcf8
        self.foreign_maps: dict[int, FrameHold] = {}
        #: Of each table in a linear relation to others of its level: how many it names, or as a negative number how many name it.
        self.linear_tables: dict[int, int] = {}
        self._per_domain_l1 = 0
        self._xen_frames: list[int] = []
        self._heap_frames: list[int] = []
        self.grant_table = GrantTable(self)
        self.maptrack = Maptrack(maptrack.DEFAULT_FRAMES)
        #: What HVM domains have and PV domains have not.
        self.hvm: HvmContainer | None = None
        self.cpuid: CpuidPolicy
        self.counter: GuestCounter
        self.address_space: AddressSpaces

    # -- making ------------------------------------------------------------------------------------------------------
    def build(self, max_vcpus: int, limits: GrantLimits) -> None:
        """Everything that a guest domain has and the embedded Domain 0 has not. ENOMEM."""
        hypervisor = self.hypervisor
        if self.kind == "pv":
            self._build_per_domain_area()
        else:
            self.hvm = HvmContainer(self)
        self.shared_info = self.allocate_xen_heap_frame() << 12
        octets = hypervisor.memory.octets
        for number in range(XEN_LEGACY_MAX_VCPUS):
            octets[self.shared_info + VCPU_INFO_OFFSET + number * VCPU_INFO_SIZE + 1] = 1
        hypervisor.guest_time.write_wall_clock(self)
        self.grant_table.open(limits.max_grant_frames, limits.max_grant_version)
        self.maptrack = Maptrack(limits.max_maptrack_frames)
        self.address_space = AddressSpaces(self)
        for number in range(max_vcpus):
            if self.hvm is None:
                self._add_vcpu(number)
            else:
                self._add_hvm_vcpu(number, self.hvm)
        if self.hvm is not None:
            self.hvm.physical_map.attach_all()
        self.counter = GuestCounter(self)
        policy = CpuidPolicy if self.hvm is None else HvmCpuidPolicy
        self.cpuid = policy(hypervisor.engine, self.counter, hypervisor.memory.total_frames.bit_length() + 12)
        join(self.gate, [vcpu.gate for vcpu in self.vcpus])

    def _add_hvm_vcpu(self, number: int, container: HvmContainer) -> None:
        cpu = self.hypervisor.engine.create_cpu(exit_on_cpuid=True, deprivileged=False)
        vcpu = HvmVcpu(self, number, cpu, self.shared_info + VCPU_INFO_OFFSET + number * VCPU_INFO_SIZE, container)
        self.vcpus.append(vcpu)
        self._attach_gate(vcpu)

    def _attach_gate(self, vcpu: Vcpu) -> bool:
        """Whether native code serves what it can of the vCPU's exits."""
        attached = is_wanted() and vcpu.cpu.attach_gate(ctypes.addressof(vcpu.gate), BLOCKS_SIZE)
        vcpu.gate.enabled = attached and not self.hypervisor.hooks.watches_native_work
        return attached

    def _add_vcpu(self, number: int) -> None:
        cpu = self.hypervisor.engine.create_cpu(exit_on_cpuid=True, deprivileged=True)
        vcpu = Vcpu(self, number, cpu, self.shared_info + VCPU_INFO_OFFSET + number * VCPU_INFO_SIZE)
        self.vcpus.append(vcpu)
        vcpu.gate.ldt_start = descriptors.ldt_base(vcpu)
        vcpu.gate.ldt_end = vcpu.gate.ldt_start + descriptors.LDT_PAGES * 4096
        if self._attach_gate(vcpu):
            self.native_gate = ctypes.addressof(vcpu.gate)
        state = vcpu.state
        state.gdt.base, state.gdt.limit = descriptors.gdt_base(vcpu), descriptors.LAST_GDT_OCTET
        state.idt.base, state.idt.limit = descriptors.IDT_BASE, descriptors.IDT_LIMIT
        state.tr.selector = descriptors.TSS_SELECTOR
        state.cr0, state.cr4, state.efer = 0x80050033, 0x620, 0xD01
        state.dr[6], state.dr[7] = 0xFFFF0FF0, 0x400
        for register in (ES, DS, FS, GS):  # null selectors, which 64-bit code does not notice
            segment = state.segs[register]
            segment.base, segment.limit, segment.attributes = descriptors.NULL_SEGMENT
        state.dirty = Dirty.ALL

    def _build_per_domain_area(self) -> None:
        """Slot 260 of every L4: three tables of Xen's that map each vCPU's descriptor pages."""
        memory = self.hypervisor.memory
        self._xen_frames = memory.allocate(OWNER_XEN, 3).tolist()
        upper, middle, lower = self._xen_frames
        memory.words[upper << 9] = middle << 12 | PRESENT | RW | ACCESSED
        memory.words[middle << 9] = lower << 12 | PRESENT | RW | ACCESSED
        self._per_domain_l1 = lower
        self.per_domain_entry = upper << 12 | PRESENT | RW | ACCESSED
        for vcpu_id in range(512 // descriptors.PAGES_PER_VCPU):
            first = vcpu_id * descriptors.PAGES_PER_VCPU
            for page in range(descriptors.FIRST_RESERVED_PAGE):
                self.map_per_domain(first + page, descriptors.page_entry(self.hypervisor.zero_frame))
            self.map_per_domain(first + descriptors.FIRST_RESERVED_PAGE, descriptors.page_entry(self.hypervisor.gdt_frame))

    def map_per_domain(self, page: int, entry: int) -> None:
        """Set the L1 entry of one page of the per-domain area. The caller flushes."""
        self.hypervisor.memory.words[(self._per_domain_l1 << 9) + page] = entry

    def allocate_xen_heap_frame(self) -> int:
        """A frame of Xen's that the domain may map writable, not counted in its reservation. ENOMEM."""
        hypervisor = self.hypervisor
        frames = hypervisor.memory.allocate(self.domid, 1)
        hypervisor.frames.assign(frames, XEN_HEAP)
        hypervisor.new_frames(frames)
        mfn = int(frames[0])
        hypervisor.frames.get_type(mfn, WRITABLE)
        self._heap_frames.append(mfn)
        return mfn

    def free_xen_heap_frames(self, mfns: list[int]) -> None:
        """Take such frames away from the domain. EBUSY, and nothing happens, while it maps one of them."""
        frames = self.hypervisor.frames
        if any(frames.count[mfn] != 1 for mfn in mfns):
            raise HypercallError(errno.EBUSY, "a frame of Xen's is still mapped")
        for mfn in mfns:
            self._heap_frames.remove(mfn)
            # Like any frame that is not Xen's it counts until it is free.
            frames.flags[mfn] &= ~XEN_HEAP & 0xFF
            self.total_pages += 1
            frames.put_page_and_type(mfn)

    # -- memory ------------------------------------------------------------------------------------------------------
    def allocate_frames(self, count: int) -> Frames:
        """``count`` more frames of its reservation. ENOMEM above its maximum or when the machine has no more, EINVAL when it is dying."""
        if self.dying:
            raise HypercallError(errno.EINVAL, f"domain {self.domid} is dying")
        if self.total_pages + count > self.max_pages:
            raise HypercallError(
                errno.ENOMEM, f"domain {self.domid} has {self.total_pages} of at most {self.max_pages} pages, {count} more wanted"
            )
        frames = self.hypervisor.memory.allocate(self.domid, count)
        self.hypervisor.frames.assign(frames, ALLOCATED)
        self.total_pages += count
        self.hypervisor.new_frames(frames)
        return frames

    def machine_frame(self, untrusted_frame: int) -> int:
        """Of the number that the guest uses: a GFN of an HVM domain (EINVAL where there is no memory), the MFN itself of a PV domain."""
        return untrusted_frame if self.hvm is None else self.hvm.physical_map.frame(untrusted_frame)

    def guest_frame(self, mfn: int) -> int:
        """The number that the guest uses for a frame of its own."""
        return mfn if self.hvm is None else int(self.hypervisor.m2p[mfn])

    def release_frame(self, mfn: int) -> None:
        """Take one frame out of the reservation; it is freed, and counts no more, when nothing refers to it any more. EINVAL."""
        frames = self.hypervisor.frames
        frames.get(mfn, self.domid)
        try:
            if not frames.flags[mfn] & ALLOCATED:
                raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is not part of the reservation")
            frames.flags[mfn] &= ~ALLOCATED & 0xFF
            frames.put(mfn)
        finally:
            frames.put(mfn)

    def release_extent(self, first: int, count: int) -> None:
        """Take neighbouring frames out of the reservation. Those before one that can't be taken are. EINVAL."""
        frames = self.hypervisor.frames
        extent = slice(first, first + count)
        owners, flags = self.hypervisor.memory.owners[extent], frames.flags_array[extent]
        if count == 1 or len(owners) < count or (owners != self.domid).any() or not (flags & ALLOCATED).all():
            for mfn in range(first, first + count):
                self.release_frame(mfn)
            return
        flags &= ~ALLOCATED & 0xFF
        frames.put_many(np.arange(first, first + count, dtype=np.uint64), np.empty(0, dtype=np.uint64))

    def validate_descriptor_page(self, mfn: int) -> None:
        """A frame is about to become a descriptor page."""
        descriptors.validate_page(self.hypervisor.memory.tables[mfn], mfn)

    # -- bookkeeping ---------------------------------------------------------------------------------------------------
    def count_hypercall(self, number: int) -> None:
        """One more hypercall of this number. The table is bounded: numbers outside Xen's range count as one."""
        if number > LAST_HYPERCALL_NUMBER:
            number = LAST_HYPERCALL_NUMBER + 1
        self.hypercalls[number] = self.hypercalls.get(number, 0) + 1

    def hypercall_counts(self) -> dict[int, int]:
        """How often each hypercall was made, those that the native gate served included."""
        counts = dict(self.hypercalls)
        for vcpu in self.vcpus:
            for number, served in enumerate(vcpu.gate.hypercalls):
                if served:
                    counts[number] = counts.get(number, 0) + served
        return counts

    def set_vm_assist(self, assists: int) -> None:
        """The bitmap of VMASST_TYPE_* that are on."""
        self.vm_assist = assists
        for vcpu in self.vcpus:
            vcpu.gate.architectural_iopl = self.architectural_iopl

    def note_unimplemented(self, what: str) -> None:
        """Log once that the guest asked for something that is not there."""
        if what not in self.unimplemented and len(self.unimplemented) < MAX_UNIMPLEMENTED_NOTES:
            self.unimplemented.add(what)
            self.hypervisor.log(f"d{self.domid}: {what} is not implemented (-ENOSYS)")

    def add_timer(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """A timer that serves the domain: if something of ours fails in it, that costs the domain, as in its hypercalls."""

        def fire() -> None:
            try:
                callback()
            except Exception as error:
                self.crash(f"internal error in a timer: {error!r}")
                for line in traceback.format_exc().splitlines():
                    self.hypervisor.log(f"  {line}")

        return self.hypervisor.timers.add(deadline_ns, fire)

    def set_watchdog(self, number: int, seconds: int) -> None:
        """Shut the domain down in ``seconds`` unless it is set again; 0 stops it."""
        timer = self.watchdogs.pop(number, None)
        if timer is not None:
            timer.cancel()
        if seconds:
            deadline = self.hypervisor.now() + seconds * 1_000_000_000
            self.watchdogs[number] = self.add_timer(deadline, lambda: self.shut_down(ShutdownReason.WATCHDOG))

    # -- running and stopping ------------------------------------------------------------------------------------------
    @property
    def paused(self) -> bool:
        """Not allowed to run: paused, shut down, or dying."""
        return self.pause_count > 0 or self.is_shut_down or self.dying

    @property
    def architectural_iopl(self) -> bool:
        """VMASST_TYPE_architectural_iopl."""
        return bool(self.vm_assist >> VMASST_TYPE_architectural_iopl & 1)

    @property
    def writable_page_tables(self) -> bool:
        """VMASST_TYPE_writable_pagetables: writes to L1 tables are emulated."""
        return bool(self.vm_assist >> VMASST_TYPE_writable_pagetables & 1)

    def pause(self) -> None:
        """Domain 0 pauses it: one more pause count."""
        self.pause_count += 1
        self.settle_all()

    def unpause(self) -> None:
        """One pause count less; at none it runs. EINVAL when it is not paused."""
        if not self.pause_count:
            raise HypercallError(errno.EINVAL, f"domain {self.domid} is not paused")
        self.pause_count -= 1
        self.settle_all()

    @property
    def held_by_others(self) -> bool:
        """Whether other domains have frames of it mapped, which then can't be freed."""
        return bool(self.foreign_maps or self.grant_table.foreign)

    def flush_tlbs(self) -> None:
        """Make all its vCPUs forget all translations."""
        if self.vcpus and not self.stopped:
            self.address_space.flush_stale(self.hypervisor.frames.clock)

    def flush_tlbs_from(self, caller: Vcpu) -> None:
        """As ``flush_tlbs``, on behalf of one of them."""
        self.address_space.flush_others(caller, None)

    def settle_all(self) -> None:
        """Whether its vCPUs are runnable has changed."""
        for vcpu in self.vcpus:
            vcpu.settle()

    def shut_down(self, reason: ShutdownReason) -> None:
        """SCHEDOP_shutdown: stop all vCPUs and tell Domain 0. Keeps the first reason."""
        if self.is_shut_down:
            return
        self.is_shut_down = True
        self.shutdown_reason = reason
        self.settle_all()
        self.publish("crashed" if reason is ShutdownReason.CRASH else "shutdown", self.crash_cause or reason.name.lower())
        self.hypervisor.notify_domain_exception()

    def crash(self, cause: str) -> None:
        """Xen's domain_crash: it did something that Xen does not go on from. ``cause`` goes to the log."""
        if self.is_shut_down or self.dying:
            return
        self.crash_cause = cause
        self.hypervisor.log(f"d{self.domid} crashed: {cause}")
        self.shut_down(ShutdownReason.CRASH)

    def resume(self) -> None:
        """XEN_DOMCTL_resumedomain. EINVAL unless it is shut down."""
        if not self.is_shut_down:
            raise HypercallError(errno.EINVAL, f"domain {self.domid} is not shut down")
        self.is_shut_down, self.shutdown_reason, self.crash_cause = False, None, ""
        self.settle_all()

    def publish(self, what: str, detail: str = "") -> None:
        """Tell the hooks about a change of its life."""
        hooks = self.hypervisor.hooks
        if hooks.lifecycle:
            hooks.publish(hooks.lifecycle, LifecycleEvent(self.domid, what, detail))

    # -- death -------------------------------------------------------------------------------------------------------
    @property
    def all_ended(self) -> bool:
        """Whether no vCPU thread does anything any more."""
        return all(vcpu.ended for vcpu in self.vcpus if vcpu.thread is not None)

    def finish_death(self) -> None:
        """Its vCPU threads have ended: release everything, when nobody is in the middle of work on it."""
        while self.exclusive:
            self.exclusive_done.wait()
        if self.stopped:  # somebody else was faster
            return
        for vcpu in self.vcpus:
            if vcpu.thread is None:
                vcpu.cpu.close()
        self.stopped = True
        self.native_gate = 0
        for owed in self.when_stopped:
            owed()
        self.when_stopped.clear()
        self.release_resources()
        self.hypervisor.finish_if_dead(self)
        self.exclusive_done.notify_all()

    def release_resources(self) -> None:
        """After all vCPU threads have ended: give everything back but the frames that other domains hold. Counts of the other frames don't
        matter any more: only the domain itself can refer to them. In pieces, between which others get the lock."""
        hypervisor = self.hypervisor
        grant_mapping.release_all(self, self._give_way)
        for vcpu in self.vcpus:
            vcpu.stop_timers()
            hypervisor.dispatcher.remove(vcpu.unit)
        for timer in self.watchdogs.values():
            timer.cancel()
        self.event_channels.destroy(self._give_way)
        self.grant_table.close()
        self.shared_info = 0
        self.total_pages = 0
        memory = hypervisor.memory
        for first in range(0, memory.total_frames, FRAMES_PER_SEARCH):
            self._release_frames(first, first + FRAMES_PER_SEARCH)
        memory.release(np.array(self._xen_frames, dtype=np.uint64))
        self._xen_frames, self._heap_frames = [], []
        self.released = True
        hypervisor.console.forget(self.domid)

    def _give_way(self) -> None:
        self.hypervisor.breathe(self.domid)

    def _release_frames(self, first: int, end: int) -> None:
        """Its frames in a part of machine memory: those that other domains hold keep just the references that these are."""
        memory, frames = self.hypervisor.memory, self.hypervisor.frames
        owned: Frames = (np.flatnonzero(memory.owners[first:end] == self.domid) + first).astype(np.uint64)
        frames.flags_array[owned] = 0
        frames.types[owned] = 0
        frames.type_counts[owned] = 0
        frames.counts[owned] = 0
        self.total_pages += self._keep_held_frames(first, end)
        unused = owned[frames.counts[owned] == 0]
        for piece in range(0, len(unused), FRAMES_PER_PIECE):
            memory.release(unused[piece : piece + FRAMES_PER_PIECE])
            self._give_way()

    def _keep_held_frames(self, first: int, end: int) -> int:
        """Set the counts of frames that other domains hold to just that. -> how many they are."""
        frames = self.hypervisor.frames
        held = [mfn for mfn in {*self.foreign_maps, *self.grant_table.foreign} if first <= mfn < end]
        for mfn in held:
            hold, use = self.foreign_maps.get(mfn), self.grant_table.foreign.get(mfn)
            frames.count[mfn] = (hold.times if hold else 0) + (use.times if use else 0)
            frames.type_count[mfn] = (hold.writable if hold else 0) + (use.writers if use else 0)
            frames.type[mfn] = WRITABLE if frames.type_count[mfn] else NONE
        return len(held)
