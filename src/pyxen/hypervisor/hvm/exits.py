"""What happens at each exit of an HVM vCPU: instructions that the hypervisor carries out, accesses outside of memory, hypercalls."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pyxen.engine.interface import ExitReason
from pyxen.hypervisor import cpuid, hypercall_table
from pyxen.hypervisor.hvm import interrupts, mmio, msr
from pyxen.hypervisor.hvm.interrupts import FLAG_IF, VECTOR_GP

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu
    from pyxen.hypervisor.vcpu import Vcpu

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
MSR_LENGTH = 2
#: Of an I/O exit: in or out; ins and outs; rep; operand size in octets (bits 4-6 as 1, 2, 4); address size from bit 7.
IO_IN, IO_STRING, IO_REP = 1, 4, 8
#: Repetitions of INS carried out at once, so that others get the lock.
STRING_BUDGET = 4096

Handler = Callable[["HvmVcpu"], None]
AnyVcpu = TypeVar("AnyVcpu", bound="Vcpu")


def on_nothing(vcpu: HvmVcpu) -> None:
    """A kick, an open interrupt window: what is due is injected before the next entry. But it may have been the one-shot timer's alarm."""
    vcpu.one_shot_timer.look()


def on_cpuid(vcpu: HvmVcpu) -> None:
    """The policy's answer."""
    cpuid.execute(vcpu)
    vcpu.state.rip += vcpu.state.instruction_length


def on_rdtsc(vcpu: HvmVcpu) -> None:
    """RDTSC or RDTSCP where the domain's counter is emulated."""
    state = vcpu.state
    counter = vcpu.domain.counter.read(vcpu)
    state.rax, state.rdx = counter & MASK32, counter >> 32
    if state.qualification:
        state.rcx = state.tsc_aux
    state.rip += state.instruction_length


def on_rdmsr(vcpu: HvmVcpu) -> None:
    """Into EDX:EAX, or #GP."""
    state = vcpu.state
    value = msr.read(vcpu, state.rcx & MASK32)
    if value is None:
        interrupts.raise_exception(vcpu, VECTOR_GP, 0)
        return
    state.rax, state.rdx = value & MASK32, value >> 32
    state.rip += MSR_LENGTH


def on_wrmsr(vcpu: HvmVcpu) -> None:
    """From EDX:EAX, or #GP."""
    state = vcpu.state
    if not msr.write(vcpu, state.rcx & MASK32, (state.rdx & MASK32) << 32 | state.rax & MASK32):
        interrupts.raise_exception(vcpu, VECTOR_GP, 0)
        return
    state.rip += MSR_LENGTH


def on_io(vcpu: HvmVcpu) -> None:
    """There are no devices: reads are all ones, writes go nowhere."""
    state = vcpu.state
    information = state.qualification >> 16
    size = information >> 4 & 7
    if information & IO_STRING:
        mmio.string_io(vcpu, size, reads=bool(information & IO_IN), repeats=bool(information & IO_REP))
        return
    if information & IO_IN:
        ones = (1 << 8 * size) - 1
        state.rax = ones if size == 4 else state.rax | ones
    state.rip += state.instruction_length


def on_halt(vcpu: HvmVcpu) -> None:
    """Sleep until there is an interrupt. With interrupts off nothing but an INIT ends it (hvm_hlt)."""
    if interrupts.ends_halt(vcpu):
        return
    if vcpu.state.rflags & FLAG_IF:
        vcpu.block()
        return
    vcpu.online = False
    vcpu.initialised = False
    vcpu.settle()
    if not any(sibling.online for sibling in vcpu.siblings()):
        dump(vcpu)
        vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: HLT with interrupts off at rip {vcpu.state.rip:#x}, and no other vCPU is on")


def on_hypercall(vcpu: HvmVcpu) -> None:
    """VMCALL or VMMCALL: from ring 0 only, so not in virtual-8086 mode either."""
    state = vcpu.state
    state.rip += vcpu.hypercall_length
    if state.cpl:
        state.rax = -errno.EPERM & MASK64
        return
    vcpu.narrow_caller = not vcpu.in_64_bit_code
    hypercall_table.dispatch(vcpu)


def on_bad_memory(vcpu: HvmVcpu) -> None:
    """An access outside of memory, which may be more than can be carried out."""
    mmio.access(vcpu)
    if vcpu.domain.crash_cause:
        dump(vcpu)


def on_triple_fault(vcpu: HvmVcpu) -> None:
    """Nothing can be delivered any more."""
    dump(vcpu)
    vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: triple fault at rip {vcpu.state.rip:#x}")


def on_engine_failure(vcpu: HvmVcpu) -> None:
    """The engine can't go on with this vCPU."""
    state = vcpu.state
    reason = ExitReason(state.exit_reason).name
    dump(vcpu)
    vcpu.domain.crash(
        f"vCPU {vcpu.vcpu_id}: {reason} at rip {state.rip:#x} (vector {state.vector}, qualification {state.qualification:#x})"
    )


def dump(vcpu: HvmVcpu) -> None:
    """The state of a vCPU into the log."""
    state, log = vcpu.state, vcpu.hypervisor.log
    where = f"d{vcpu.domain.domid}v{vcpu.vcpu_id}"
    log(f"{where}: rip {state.rip:016x} rsp {state.rsp:016x} rflags {state.rflags:08x} cpl {state.cpl} cs {state.segs[1].selector:04x}")
    log(f"{where}: rax {state.rax:016x} rbx {state.rbx:016x} rcx {state.rcx:016x} rdx {state.rdx:016x}")
    log(f"{where}: cr0 {state.cr0:08x} cr2 {state.cr2:016x} cr3 {state.cr3:016x} cr4 {state.cr4:08x} efer {state.efer:x}")
    log(f"{where}: gdt {state.gdt.base:016x}/{state.gdt.limit:x} idt {state.idt.base:016x}/{state.idt.limit:x} tr {state.tr.base:016x}")


def _unless_reset(handler: Handler) -> Handler:
    """The exit of a state that an INIT has replaced meanwhile is void."""

    def handle(vcpu: HvmVcpu) -> None:
        if not vcpu.was_reset:
            handler(vcpu)

    return handle


_HANDLERS: dict[ExitReason, Handler] = {
    ExitReason.KICK: on_nothing,
    ExitReason.INTERRUPT_WINDOW: on_nothing,
    ExitReason.CPUID: on_cpuid,
    ExitReason.RDTSC: on_rdtsc,
    ExitReason.RDMSR: on_rdmsr,
    ExitReason.WRMSR: on_wrmsr,
    ExitReason.IO: on_io,
    ExitReason.HALT: on_halt,
    ExitReason.HYPERCALL: on_hypercall,
    ExitReason.BAD_MEMORY: on_bad_memory,
    ExitReason.TRIPLE_FAULT: on_triple_fault,
}
EXIT_HANDLERS: list[Handler] = [_unless_reset(_HANDLERS.get(ExitReason(number), on_engine_failure)) for number in range(len(ExitReason))]
