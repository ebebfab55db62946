"""The local APIC of one vCPU: registers by MMIO and as x2APIC, interrupt requests, IPIs, the timer (Intel SDM volume 3, chapter 11; Xen's
arch/x86/hvm/vlapic.c).

All methods are called with the hypervisor lock held. The registers are in the gate's block; native code (native/pyxen_apic.c) reads and
writes some of them, on the vCPU's own thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.hypervisor.gate import APIC_REGISTERS, GateBits, GateMember
from pyxen.hypervisor.hvm import apic_timer, processor_reset

if TYPE_CHECKING:
    from pyxen.hypervisor.gate import GateApic
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SVR = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR = 0x100, 0x180, 0x200, 0x280
ICR, ICR_HIGH = 0x300, 0x310
LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR = range(0x320, 0x380, 0x10)
TIMER_INITIAL, TIMER_CURRENT, TIMER_DIVIDE, SELF_IPI = 0x380, 0x390, 0x3E0, 0x3F0

#: Integrated APIC, six local vectors, as Xen's.
VERSION_VALUE = 0x14 | 5 << 16
MASKED = 1 << 16
#: Vector, delivery and destination mode, level, trigger, shorthand.
ICR_BITS = 0xCCFFF
SVR_ENABLED = 1 << 8
#: Those below are exceptions, no interrupts.
FIRST_VECTOR = 16
ESR_ILLEGAL_VECTOR = 1 << 6
#: What a write leaves of each register.
_WRITABLE = {
    TPR: 0xFF,
    DFR: 0xF0000000,
    LDR: 0xFF000000,
    SVR: 0x1FF,
    ICR_HIGH: 0xFF000000,
    LVT_TIMER: 0x710FF,
    LVT_THERMAL: 0x117FF,
    LVT_PERFORMANCE: 0x117FF,
    LVT_LINT0: 0x1F7FF,
    LVT_LINT1: 0x1F7FF,
    LVT_ERROR: 0x110FF,
    TIMER_DIVIDE: 0xB,
}
_LOCAL_VECTORS = (LVT_TIMER, LVT_THERMAL, LVT_PERFORMANCE, LVT_LINT0, LVT_LINT1, LVT_ERROR)
_X2APIC_ONLY_READ = frozenset((ID, VERSION, PPR, LDR, TIMER_CURRENT, *range(ISR, ISR + 0x180, 0x10)))
_X2APIC_ABSENT = frozenset((DFR, ICR_HIGH))

ENABLED, X2APIC, BOOT_PROCESSOR = 1 << 11, 1 << 10, 1 << 8
BASE_ADDRESS = 0xFEE00000

DELIVER_FIXED, DELIVER_LOWEST, DELIVER_NMI, DELIVER_INIT, DELIVER_STARTUP = 0, 1, 4, 5, 6


class _Registers:
    """Those that keep what was written, by their MMIO offset; 0 for what is none."""

    def __init__(self, block: GateApic) -> None:
        self._block = block  # owns the array's memory
        self._words = block.registers

    def __getitem__(self, offset: int) -> int:
        number = offset >> 4
        return self._words[number] if number < APIC_REGISTERS else 0

    def __setitem__(self, offset: int, value: int) -> None:
        self._words[offset >> 4] = value

    def clear(self) -> None:
        """All of them 0."""
        self._words[:] = bytes(APIC_REGISTERS)


class LocalApic:
    """See the module's text. Requests and services are 256-bit numbers, a bit a vector."""

    timer: apic_timer.ApicTimer
    base = GateMember()
    requests = GateBits()
    services = GateBits()

    def __init__(self, vcpu: HvmVcpu) -> None:
        self._vcpu = vcpu
        self.gate: GateApic = vcpu.gate.apic
        self._registers = _Registers(self.gate)
        self.apic_id = 2 * vcpu.vcpu_id
        self.base = BASE_ADDRESS | ENABLED | (BOOT_PROCESSOR if not vcpu.vcpu_id else 0)
        self._errors = 0  # since the last write of ESR
        self.timer = apic_timer.ApicTimer(vcpu, self._timer_fired)
        self.reset()

    def reset(self) -> None:
        """As after INIT; the base register stays."""
        self._registers.clear()
        self._registers[SVR], self._registers[DFR] = 0xFF, 0xFFFFFFFF
        for local in _LOCAL_VECTORS:
            self._registers[local] = MASKED
        self.task_priority = 0
        self.requests = self.services = self._errors = 0
        self.timer.stop()

    # -- state ---------------------------------------------------------------------------------------------------------
    @property
    def is_x2apic(self) -> bool:
        return bool(self.base & X2APIC)

    @property
    def accepts(self) -> bool:
        """Enabled by hardware and by software."""
        return bool(self.base & ENABLED and self._registers[SVR] & SVR_ENABLED)

    @property
    def task_priority(self) -> int:
        """TPR. Its upper half is CR8, which the guest may load by itself."""
        priority, cr8 = self._registers[TPR], self._vcpu.state.cr8
        return priority if priority >> 4 == cr8 else cr8 << 4

    @task_priority.setter
    def task_priority(self, value: int) -> None:
        self._registers[TPR] = value & 0xFF
        self._vcpu.state.cr8 = (value & 0xFF) >> 4

    @property
    def _priority(self) -> int:
        """PPR: the higher class of TPR and of the vector in service."""
        task, service = self.task_priority, max(self.services.bit_length() - 1, 0)
        return task if task >> 4 >= service >> 4 else service & 0xF0

    def pending(self) -> int | None:
        """The vector that the processor would take now, were its interrupts on."""
        if not self.requests or not self.accepts:
            return None
        vector = self.requests.bit_length() - 1
        return vector if vector >> 4 > self._priority >> 4 else None

    def acknowledge(self, vector: int) -> None:
        """The processor takes it: from the requests to those in service."""
        self.requests &= ~(1 << vector)
        self.services |= 1 << vector

    def retract(self, vector: int) -> None:
        """The processor did not take it after all. Nothing for a vector that was not the APIC's."""
        if self.services >> vector & 1:
            self.services &= ~(1 << vector)
            self.requests |= 1 << vector

    def request(self, vector: int) -> None:
        """An interrupt arrives. Below 16 it is an error."""
        if not self.accepts:
            return
        if vector < FIRST_VECTOR:
            self._note_error(ESR_ILLEGAL_VECTOR)
            return
        self.requests |= 1 << vector
        self._vcpu.attend()

    def _note_error(self, error: int) -> None:
        """An error that was not there yet, for the next write of ESR to show; an interrupt by the local vector for errors, if that is one
        (which, once it is noted, can't be the same error again)."""
        if self._errors & error:
            return
        self._errors |= error
        local = self._registers[LVT_ERROR]
        if not local & MASKED:
            self.request(local & 0xFF)

    def set_base(self, value: int) -> bool:
        """IA32_APIC_BASE. False (#GP) for a change that the processor refuses: another address, or a step back from x2APIC that does not
        go through "disabled"."""
        boot = BOOT_PROCESSOR if not self._vcpu.vcpu_id else 0
        mode, old = value & (ENABLED | X2APIC), self.base & (ENABLED | X2APIC)
        if value & ~(ENABLED | X2APIC | BOOT_PROCESSOR) != BASE_ADDRESS or value & BOOT_PROCESSOR != boot or mode == X2APIC:
            return False
        if (old == ENABLED | X2APIC and mode == ENABLED) or (not old and mode == ENABLED | X2APIC):
            return False
        self.base = value
        self._vcpu.known_cpuid.forget()  # they show whether there is one
        if not mode and old:
            self.reset()
        return True

    # -- registers -----------------------------------------------------------------------------------------------------
    def read(self, offset: int) -> int:
        """A 32-bit register by its MMIO offset; 0 for one that is not there."""
        if offset == ID:
            return self.apic_id if self.is_x2apic else self.apic_id << 24
        if offset == VERSION:
            return VERSION_VALUE
        if offset == PPR:
            return self._priority
        if offset == LDR and self.is_x2apic:
            return self.apic_id >> 4 << 16 | 1 << (self.apic_id & 15)
        if ISR <= offset < TMR:
            return self.services >> (offset - ISR) * 2 & 0xFFFFFFFF
        if IRR <= offset < ESR:
            return self.requests >> (offset - IRR) * 2 & 0xFFFFFFFF
        if offset == TIMER_INITIAL:
            return self.timer.initial
        if offset == TIMER_CURRENT:
            return self.timer.current()
        if offset == TPR:
            return self.task_priority
        return self._registers[offset]

    def write(self, offset: int, value: int) -> None:
        """A 32-bit register by its MMIO offset; nothing happens for one that is not there or only to be read."""
        if offset == EOI:
            if self.services:
                self.services &= ~(1 << self.services.bit_length() - 1)
        elif offset == ICR:
            self._registers[ICR] = value & ICR_BITS
            destination = self._registers[ICR_HIGH] >> 24
            self._send(value, destination, broadcast=destination == 0xFF)
        elif offset == ESR:
            self._registers[ESR], self._errors = self._errors, 0
        elif offset == TIMER_INITIAL:
            if self.timer.mode(self._registers[LVT_TIMER]) != apic_timer.TSC_DEADLINE:
                self.timer.start(value, self._registers[LVT_TIMER], self._registers[TIMER_DIVIDE])
        elif offset == TPR:
            self.task_priority = value
        elif offset in _WRITABLE:
            self._write_plain(offset, value & _WRITABLE[offset])

    def _write_plain(self, offset: int, value: int) -> None:
        if offset == SVR and not value & SVR_ENABLED:
            for local in _LOCAL_VECTORS:
                self._registers[local] |= MASKED
        if offset in _LOCAL_VECTORS and not self._registers[SVR] & SVR_ENABLED:
            value |= MASKED
        if offset == LVT_TIMER and self.timer.mode(value) != self.timer.mode(self._registers[LVT_TIMER]):
            self.timer.stop()
        if offset == DFR:
            value |= 0x0FFFFFFF
        self._registers[offset] = value
        if offset == TIMER_DIVIDE:
            self.timer.change_divisor(value)

    def read_msr(self, register: int) -> int | None:
        """x2APIC: MSR 0x800 and up. None for #GP."""
        offset = (register & 0x3FF) << 4
        if not self.is_x2apic or offset in _X2APIC_ABSENT or offset in (EOI, SELF_IPI):
            return None
        if offset == ICR:
            return self._registers[ICR] | self._registers[ICR_HIGH] << 32
        known = offset in _X2APIC_ONLY_READ or offset in _WRITABLE or offset in (ESR, TIMER_INITIAL)
        return self.read(offset) if known else None

    def write_msr(self, register: int, value: int) -> bool:
        """False for #GP."""
        offset = (register & 0x3FF) << 4
        if not self.is_x2apic or offset in _X2APIC_ABSENT or offset in _X2APIC_ONLY_READ:
            return False
        if offset == ICR:
            if value & 0xFFFFFFFF & ~ICR_BITS:
                return False
            self._registers[ICR], self._registers[ICR_HIGH] = value & ICR_BITS, value >> 32
            self._send(value & 0xFFFFFFFF, value >> 32, broadcast=value >> 32 == 0xFFFFFFFF)
            return True
        if offset == SELF_IPI:
            if value >> 8:
                return False
            self.request(value)
            return True
        if value >> 32 or (offset in (EOI, ESR) and value):
            return False
        if offset not in _WRITABLE and offset not in (EOI, ESR, TIMER_INITIAL):
            return False
        if offset in _WRITABLE and value & ~_WRITABLE[offset]:
            return False
        self.write(offset, value)
        return True

    # -- interrupts to others ------------------------------------------------------------------------------------------
    def _send(self, command: int, destination: int, *, broadcast: bool) -> None:
        """What a write of the interrupt command register asks for."""
        targets = self._targets(command, destination, broadcast=broadcast)
        vector, mode = command & 0xFF, command >> 8 & 7
        if mode == DELIVER_LOWEST:
            targets, mode = targets[:1], DELIVER_FIXED
        for target in targets:
            if mode == DELIVER_FIXED:
                target.local_apic.request(vector)
            elif mode == DELIVER_NMI:
                target.nmi_pending = True
                target.wake()
            elif mode == DELIVER_INIT and command & 1 << 14:  # the INIT that deasserts means nothing any more
                processor_reset.initialise(target, self._vcpu)
            elif mode == DELIVER_STARTUP:
                processor_reset.start_up(target, vector)

    def _targets(self, command: int, destination: int, *, broadcast: bool) -> list[HvmVcpu]:
        everybody = self._vcpu.siblings()
        shorthand = command >> 18 & 3
        if shorthand == 1:
            return [self._vcpu]
        if shorthand == 3:
            return [vcpu for vcpu in everybody if vcpu is not self._vcpu]
        if shorthand == 2 or broadcast:
            return everybody
        if command & 1 << 11:
            return [vcpu for vcpu in everybody if vcpu.local_apic.is_logical(destination, x2apic=self.is_x2apic)]
        return [vcpu for vcpu in everybody if vcpu.local_apic.apic_id == destination]

    def is_logical(self, destination: int, *, x2apic: bool) -> bool:
        """Whether a logical destination means this one."""
        if x2apic:
            own = self.apic_id >> 4 << 16 | 1 << (self.apic_id & 15)
            return own >> 16 == destination >> 16 and bool(own & destination & 0xFFFF)
        own = self._registers[LDR] >> 24
        if self._registers[DFR] >> 28 == 0xF:
            return bool(own & destination)
        return own >> 4 == destination >> 4 and bool(own & destination & 0xF)

    def set_tsc_deadline(self, tsc: int) -> None:
        """IA32_TSC_DEADLINE; ignored unless the timer is in that mode."""
        if self.timer.mode(self._registers[LVT_TIMER]) == apic_timer.TSC_DEADLINE:
            self.timer.set_deadline(tsc)

    def _timer_fired(self) -> None:
        if not self._registers[LVT_TIMER] & MASKED:
            self.request(self._registers[LVT_TIMER] & 0xFF)
