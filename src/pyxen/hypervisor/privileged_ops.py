"""Privileged instructions of a guest kernel, which fault, and which Xen carries out on its behalf (pv/emul-priv-op.c).

Only those that Xen emulates for an unprivileged PV domain; every other one stays the guest's #GP.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.engine.interface import Dirty
from pyxen.hypervisor import cpuid, debug_registers, guest_access, msr, port_io, traps
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.instruction import MASK32, REGISTERS, Instruction, InstructionFault, code_bits
from pyxen.hypervisor.vcpu import CR0_TS

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

CR4_TSD = 4
#: Of CR4 a guest sees what Xen has set, besides its own bits: PAE, MCE, OSFXSR, OSXMMEXCPT (pv_fixup_guest_cr4).
VISIBLE_CR4 = 0x660
RDTSCP_MODRM = 0xF9


def emulate(vcpu: Vcpu) -> bool:
    """Carry out the instruction at RIP if it is one that Xen emulates and the guest may use. False: let it fault."""
    try:
        instruction = Instruction(vcpu)
    except (guest_access.GuestFault, ValueError):
        return False
    handler = _USER_OPCODES.get(instruction.opcode)
    if handler is None and vcpu.kernel_mode:
        handler = _KERNEL_OPCODES.get(instruction.opcode)
    if handler is None:
        return False
    try:
        if not handler(vcpu, instruction):
            return False
    except port_io.EmulatedPageFault as fault:
        vcpu.state.cr2 = fault.address
        traps.inject(vcpu, traps.VECTOR_PF, fault.error_code)
    except InstructionFault as fault:
        traps.inject(vcpu, fault.vector, fault.error_code)
    else:
        retire(vcpu, instruction.length)
    return True


def retire(vcpu: Vcpu, length: int) -> None:
    """An instruction of ``length`` octets has been emulated: go past it, and take the traps that follow an instruction."""
    state = vcpu.state
    rip = state.rip + length
    state.rip = rip if code_bits(vcpu) == 64 else rip & MASK32
    state.rflags &= ~traps.FLAG_RF
    if state.rflags & traps.FLAG_TF:
        debug_registers.note_traps(vcpu, debug_registers.DR6_SINGLE_STEP)
    if debug_registers.take_traps(vcpu):
        traps.inject(vcpu, traps.VECTOR_DB)


def set_task_switched(vcpu: Vcpu, *, on: bool) -> None:
    """CR0.TS as the guest set it, in its CR0 and in the CPU's."""
    state = vcpu.state
    if on:
        vcpu.cr0 |= CR0_TS
        state.cr0 |= CR0_TS
    else:
        vcpu.cr0 &= ~CR0_TS
        state.cr0 &= ~CR0_TS
    state.dirty |= Dirty.CONTROL


def cpuid_faults(vcpu: Vcpu) -> bool:
    """Whether the guest kernel has made CPUID #GP for its user space."""
    return bool(vcpu.cpuid_faulting) and not vcpu.kernel_mode


# -- one function an instruction; False refuses it ---------------------------------------------------------------------
def _port_access(vcpu: Vcpu, instruction: Instruction) -> bool:
    return _note_breakpoints(vcpu, port_io.single_access(vcpu, instruction))


def _string_port_access(vcpu: Vcpu, instruction: Instruction) -> bool:
    return _note_breakpoints(vcpu, port_io.string_access(vcpu, instruction))


def _note_breakpoints(vcpu: Vcpu, matches: int | None) -> bool:
    if matches is None:
        return False
    if matches:
        debug_registers.note_traps(vcpu, matches)
    return True


def _ignored_interrupt_flag(vcpu: Vcpu, instruction: Instruction) -> bool:
    """cli, sti: with IOPL nothing happens. Xen does not let them touch the upcall mask: it could not see the POPF that goes with them."""
    return port_io.is_privileged(vcpu)


def _clts(vcpu: Vcpu, instruction: Instruction) -> bool:
    set_task_switched(vcpu, on=False)
    return True


def _wbinvd(vcpu: Vcpu, instruction: Instruction) -> bool:
    """Silently nothing for a domain without devices."""
    return True


def _read_control(vcpu: Vcpu, instruction: Instruction) -> bool:
    values = {
        0: vcpu.cr0,
        2: vcpu.words[(vcpu.info + 16) >> 3],
        3: vcpu.kernel_root,
        4: vcpu.cr4 | VISIBLE_CR4,
    }
    if instruction.reg not in values:
        return False
    setattr(vcpu.state, REGISTERS[instruction.rm], values[instruction.reg])
    return True


def _write_control(vcpu: Vcpu, instruction: Instruction) -> bool:
    value = getattr(vcpu.state, REGISTERS[instruction.rm])
    if instruction.reg == 0:
        if (value ^ vcpu.cr0) & ~CR0_TS:
            return False
        set_task_switched(vcpu, on=bool(value & CR0_TS))
    elif instruction.reg == 2:
        vcpu.words[(vcpu.info + 16) >> 3] = value
    elif instruction.reg == 3:
        try:
            vcpu.domain.address_space.new_kernel_root(vcpu, value >> 12)
        except HypercallError:
            return False
    elif instruction.reg == 4:
        vcpu.cr4 = value & vcpu.hypervisor.guest_cr4_mask
        vcpu.state.cr4 = vcpu.state.cr4 & ~CR4_TSD | vcpu.cr4 & CR4_TSD
        vcpu.state.dirty |= Dirty.CONTROL
    else:
        return False
    return True


def _read_debug(vcpu: Vcpu, instruction: Instruction) -> bool:
    try:
        value = debug_registers.get(vcpu, instruction.reg)
    except HypercallError:
        return False
    setattr(vcpu.state, REGISTERS[instruction.rm], value)
    return True


def _write_debug(vcpu: Vcpu, instruction: Instruction) -> bool:
    try:
        debug_registers.set_register(vcpu, instruction.reg, getattr(vcpu.state, REGISTERS[instruction.rm]))
    except HypercallError:
        return False
    return True


def _rdmsr(vcpu: Vcpu, instruction: Instruction) -> bool:
    value = msr.read(vcpu, vcpu.state.rcx & MASK32)
    if value is None:
        return False
    vcpu.state.rax, vcpu.state.rdx = value & MASK32, value >> 32
    return True


def _wrmsr(vcpu: Vcpu, instruction: Instruction) -> bool:
    state = vcpu.state
    allowed = msr.write(vcpu, state.rcx & MASK32, state.rax & MASK32 | (state.rdx & MASK32) << 32)
    return allowed


def _rdtsc(vcpu: Vcpu, instruction: Instruction) -> bool:
    """It faults with CR4.TSD: that is the guest's own word, for its user space."""
    if not vcpu.kernel_mode and vcpu.cr4 & CR4_TSD:
        return False
    counter = vcpu.domain.counter.read(vcpu)
    vcpu.state.rax, vcpu.state.rdx = counter & MASK32, counter >> 32
    return True


def on_rdtsc(vcpu: Vcpu) -> None:
    """RDTSC or RDTSCP where the domain's counter is not the host's."""
    state = vcpu.state
    counter = vcpu.domain.counter.read(vcpu)
    state.rax, state.rdx = counter & MASK32, counter >> 32
    if state.qualification:
        state.rcx = state.tsc_aux
    retire(vcpu, state.instruction_length)


def _rdtscp(vcpu: Vcpu, instruction: Instruction) -> bool:
    """The other instructions of the opcode are not emulated."""
    if instruction.modrm != RDTSCP_MODRM or not _rdtsc(vcpu, instruction):
        return False
    vcpu.state.rcx = vcpu.state.tsc_aux
    return True


def _cpuid(vcpu: Vcpu, instruction: Instruction) -> bool:
    if cpuid_faults(vcpu):
        return False
    cpuid.execute(vcpu)
    return True


_Emulator = Callable[["Vcpu", Instruction], bool]
_USER_OPCODES: dict[int, _Emulator] = {
    **dict.fromkeys((0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF), _port_access),
    **dict.fromkeys((0x6C, 0x6D, 0x6E, 0x6F), _string_port_access),
    **dict.fromkeys((0xFA, 0xFB), _ignored_interrupt_flag),
    0x0F01: _rdtscp,
    0x0F31: _rdtsc,
    0x0FA2: _cpuid,
}
_KERNEL_OPCODES: dict[int, _Emulator] = {
    0x0F06: _clts,
    0x0F09: _wbinvd,
    0x0F20: _read_control,
    0x0F21: _read_debug,
    0x0F22: _write_control,
    0x0F23: _write_debug,
    0x0F30: _wrmsr,
    0x0F32: _rdmsr,
}
