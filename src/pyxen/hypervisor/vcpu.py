"""A virtual CPU: what Xen keeps of it, and how it is stopped, kicked and woken. Its modes and entry points are those of PV domains
(``hvm.vcpu`` has the other kind).

State that the guest can see lives in ``state`` (the engine's block) and in the guest's vcpu_info; the rest is here. Everything is guarded
by the hypervisor lock but ``kick``.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pyxen.abi import vcpu as abi_vcpu
from pyxen.engine.interface import CpuState, Dirty, VirtualCpu
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.gate import GateBlock, GateMember, KnownCpuid, KnownSegments, TrapEntry, TrapTable
from pyxen.hypervisor.one_shot_timer import OneShotTimer
from pyxen.hypervisor.runstate import Runstate
from pyxen.hypervisor.timers import Timer

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

FLAT_KERNEL_CS, FLAT_KERNEL_SS = 0xE033, 0xE02B
FLAT_USER_CS32 = 0xE023
#: Descriptors of the flat selectors (second doubleword), as Xen's own GDT page has them.
CODE64_ATTRIBUTES, CODE32_ATTRIBUTES, DATA_ATTRIBUTES = 0x00AFFB00, 0x00CFFB00, 0x00CFF300

KERNEL_CPL, USER_CPL = 1, 3
NMI_VECTOR = 2
CR0_TS = 8


class VcpuStuckError(HypercallError):
    """A vCPU does not leave the guest: a defect of the engine. Its domain has been crashed."""


class Vcpu:
    """See the module's text. ``info`` is the machine address of this vCPU's vcpu_info. What the native gate needs is in ``gate``."""

    #: Whether it has ring 0 and an IDT of its own (``HvmVcpu``).
    is_hvm = False
    hypercall_length = 2  #: of the instruction
    #: Whether the hypercall that it makes is one of 32-bit code, so that arguments and structures are narrow (``abi.compat``).
    narrow_caller = False
    #: Whether CPUID shows a local APIC.
    local_apic_enabled = False

    state: CpuState
    kernel_mode = GateMember()
    kernel_root = GateMember()
    user_root = GateMember()
    kernel_sp = GateMember()
    kernel_ss = GateMember()
    gs_base_other = GateMember()
    info = GateMember()
    event_callback = GateMember()
    syscall_callback = GateMember()
    syscall_masks_events = GateMember()
    cr0 = GateMember()
    iopl = GateMember()
    nmi_pending = GateMember()
    nmi_active = GateMember()
    vcpu_id = GateMember()
    in_guest = GateMember()
    cpuid_faulting = GateMember()  #: CPUID is #GP for user space (MSR_INTEL_MISC_FEATURES_ENABLES)
    flush_clock = GateMember()
    timer_port = GateMember()  #: of VIRQ_TIMER, 0 while it is not bound
    flushes = GateMember()  #: how many were requested
    online = GateMember()
    blocked = GateMember()  #: in SCHEDOP_block or poll, or halted
    event_control = GateMember()  #: machine address of its control block of the FIFO ABI, 0 for none

    def __init__(self, domain: Domain, vcpu_id: int, cpu: VirtualCpu, info: int) -> None:
        self.gate = GateBlock()
        self.traps = TrapTable(self.gate)
        self.info = info
        self.kernel_mode = True
        self.cr0 = 0x80050033
        self.domain = domain
        self.hypervisor = domain.hypervisor
        self.vcpu_id = vcpu_id
        self.cpu = cpu
        self.state = cpu.state
        self.words = domain.hypervisor.memory.words
        self.octets = domain.hypervisor.memory.octets
        self.info_registered = False

        self.kernel_ss = FLAT_KERNEL_SS
        self.cr4 = 0
        self.io_bitmap: tuple[int, int] | None = None
        self.emulated_traps = 0  # DR6 bits of the instruction that is being emulated

        self.failsafe_callback = 0
        self.failsafe_masks_events = False
        self.syscall32_callback = 0
        self.syscall32_masks_events = False
        self.sysenter_callback = 0
        self.sysenter_masks_events = False

        self.gdt_frames: list[int] = []
        self.gdt_entries = 0
        self.ldt_address = 0
        self.ldt_entries = 0
        self.ldt_frames: dict[int, int] = {}
        self.known_segments = KnownSegments(self.gate)
        self.known_cpuid = KnownCpuid(self.gate)
        self.segment_cache: dict[int, tuple[int, int, int]] = {}

        self.initialised = False
        self.current_hypercall: int | None = None
        self.info_frame = 0
        self.time_area_generation = 0
        self.pause_count = 0
        self.poll_timer: Timer | None = None
        self.one_shot_timer = OneShotTimer(self)
        self.periodic_timer: Timer | None = None
        self.periodic_ns = 0
        self.virqs: dict[int, int] = {}
        self.time_area = 0
        self.runstate_area = 0
        self.runstate = Runstate()
        self.runstate_changed = False
        self.stuck = False  # in the guest, and did not leave it when it was kicked
        self.ended = False  # its thread has done all it had to do
        #: Whether it holds a processor and nobody wants it back: see ``scheduling.dispatcher``, the only one to change it.
        self.may_enter = False
        self.time_generation = 0
        self.wakeup = domain.hypervisor.lock.condition()
        self.thread: threading.Thread | None = None
        self.unit = domain.hypervisor.dispatcher.insert(self, domain.cpupool)

    # -- modes and roots ---------------------------------------------------------------------------------------------
    def toggle_mode(self) -> None:
        """Kernel to user or back: the other root, the other GS base, the other privilege. No flush: the TLB is tagged by privilege."""
        state = self.state
        base = state.segs[5]
        base.base, self.gs_base_other = self.gs_base_other, base.base
        self.kernel_mode = not self.kernel_mode
        if self.kernel_mode:
            state.cr3, state.cpl = self.kernel_root, KERNEL_CPL
        else:
            state.cr3, state.cpl = self.user_root, USER_CPL
        state.dirty |= Dirty.SEGMENTS | Dirty.CONTROL

    def set_flat_kernel_segments(self) -> None:
        """CS and SS as a bounce to the guest kernel leaves them."""
        segs = self.state.segs
        cs, ss = segs[1], segs[2]
        cs.selector, cs.attributes = FLAT_KERNEL_CS, CODE64_ATTRIBUTES
        ss.selector, ss.attributes = FLAT_KERNEL_SS, DATA_ATTRIBUTES
        cs.base = ss.base = 0
        cs.limit = ss.limit = 0xFFFFFFFF
        self.state.dirty |= Dirty.SEGMENTS

    def forget_segments(self) -> None:
        """A descriptor table changed: selectors are to be looked up again."""
        self.segment_cache.clear()
        self.known_segments.forget()

    def request_flush(self) -> None:
        """Forget all translations before the guest runs again. The vCPU must not be in the guest now (``Hypervisor.stop_briefly``)."""
        frames = self.hypervisor.frames
        frames.clock += 1
        self.flush_clock = frames.clock
        self.flushes += 1
        self.state.dirty |= Dirty.FLUSH_TLB

    @property
    def nmi_callback(self) -> int:
        """Where NMIs enter the guest kernel: the trap table's slot 2, whoever set it; 0 for nowhere."""
        entry = self.traps[NMI_VECTOR]
        return entry.address if entry is not None else 0

    @nmi_callback.setter
    def nmi_callback(self, address: int) -> None:
        self.traps[NMI_VECTOR] = TrapEntry(address, 0, True) if address else None

    # -- stopping and waking -----------------------------------------------------------------------------------------
    @property
    def runnable(self) -> bool:
        """Whether it would execute guest code, if it had a processor."""
        return bool(self.online) and not self.blocked and not self.pause_count and not self.domain.paused

    def kick(self) -> None:
        """Make it look at its pending work before it goes on in the guest. Lock held."""
        if self.in_guest:
            self.cpu.kick()

    @property
    def polled_port(self) -> int | None:
        """Of SCHEDOP_poll; ANY_PORT for any, None when it does not poll."""
        return self.gate.polled or None

    @polled_port.setter
    def polled_port(self, port: int | None) -> None:
        self.gate.polled = port or 0  # there is no port 0

    def settle(self) -> None:
        """What decides whether it is runnable has changed."""
        self.hypervisor.dispatcher.settle(self)

    def wake(self) -> None:
        """An event arrived: end SCHEDOP_block or poll."""
        if self.blocked:
            self.blocked = False
            self.polled_port = None
            if self.poll_timer is not None:
                self.poll_timer.cancel()
                self.poll_timer = None
            self.settle()
        self.kick()

    def event_upcall(self) -> None:
        """evtchn_upcall_pending was just set."""
        self.attend()

    def attend(self) -> None:
        """There is something for the guest that native code can deliver, too."""
        if self.blocked:
            self.wake()
        elif self.in_guest:
            self.cpu.notify()

    def machine_address(self, address: int, *, write: bool) -> int | None:
        """Of the octet at a linear address, for a vCPU whose guest's page tables hold guest frame numbers; None if the access faults."""
        raise AssertionError("the page tables of a PV guest hold machine frames")

    def block(self) -> None:
        """Sleep until ``wake``. The thread notices when the current exit is done."""
        self.one_shot_timer.take_over()
        self.blocked = True
        self.settle()

    def update_runstate(self, now_ns: int | None = None) -> None:
        """If its state has changed: account the time since the last change to the state it was in, and enter the one it is in now."""
        if self.unit.processor is not None:
            new = abi_vcpu.RUNSTATE_running
        elif self.runnable:
            new = abi_vcpu.RUNSTATE_runnable
        elif self.blocked and not self.domain.paused and self.online:
            new = abi_vcpu.RUNSTATE_blocked
        else:
            new = abi_vcpu.RUNSTATE_offline
        if new != self.runstate.state:
            self.runstate.change(new, self.hypervisor.now() if now_ns is None else now_ns)
            self.runstate_changed = True

    # -- events ------------------------------------------------------------------------------------------------------
    @property
    def events_masked(self) -> bool:
        """vcpu_info.evtchn_upcall_mask."""
        return bool(self.octets[self.info + 1])

    @events_masked.setter
    def events_masked(self, value: bool) -> None:
        self.octets[self.info + 1] = value

    @property
    def has_deliverable_event(self) -> bool:
        """Whether an upcall is due."""
        return bool(self.octets[self.info]) and not self.events_masked

    def stop_timers(self) -> None:
        """Cancel everything that could still fire for this vCPU."""
        for timer in (self.poll_timer, self.periodic_timer):
            if timer is not None:
                timer.cancel()
        self.poll_timer = self.periodic_timer = None
        self.one_shot_timer.set(None)
