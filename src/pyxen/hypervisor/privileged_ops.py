"""Privileged instructions of a guest kernel, which fault, and which Xen carries out on its behalf (pv/emul-priv-op.c).

Only those that Xen emulates for an unprivileged PV domain; every other one stays the guest's #GP.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.engine.interface import Dirty
from pyxen.hypervisor import debug_registers, descriptors, guest_access, interval_timer, msr, traps
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.vcpu import CR0_TS

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
MASK32 = 0xFFFFFFFF
MAX_INSTRUCTION = 15


class Instruction:
    """Prefixes, opcode and ModRM of the instruction at RIP, as far as the emulated ones need them."""

    def __init__(self, code: bytes) -> None:
        position = 0
        self.operand16 = False
        self.rex = 0
        while position < len(code) - 3:
            octet = code[position]
            if octet == 0x66:
                self.operand16 = True
            elif octet not in (0xF2, 0xF3, 0x67, 0x2E, 0x36, 0x3E, 0x26, 0x64, 0x65):
                break
            position += 1
        if code[position] & 0xF0 == 0x40:
            self.rex = code[position]
            position += 1
        self.opcode = code[position]
        position += 1
        if self.opcode == 0x0F:
            self.opcode = 0x0F00 | code[position]
            position += 1
        self.modrm = code[position] if position < len(code) else 0
        self.immediate = self.modrm
        self.length = position

    @property
    def reg(self) -> int:
        """ModRM.reg with REX.R."""
        return self.modrm >> 3 & 7 | (self.rex & 4) << 1

    @property
    def rm(self) -> int:
        """ModRM.rm with REX.B, for register operands."""
        return self.modrm & 7 | (self.rex & 1) << 3


def fetch(vcpu: Vcpu) -> bytes:
    """Up to 15 octets at RIP, fewer at the end of what is mapped, padded with zeroes."""
    rip = vcpu.state.rip
    room = 4096 - (rip & 0xFFF)
    code = guest_access.read(vcpu, rip, min(room, MAX_INSTRUCTION))
    if room < MAX_INSTRUCTION:
        try:
            code += guest_access.read(vcpu, rip + room, MAX_INSTRUCTION - room)
        except guest_access.GuestFault:
            code = code.ljust(MAX_INSTRUCTION, b"\0")
    return code


def emulate(vcpu: Vcpu) -> bool:
    """Carry out the instruction at RIP if it is one that Xen emulates and the guest may use. False: let it fault."""
    try:
        instruction = Instruction(fetch(vcpu))
    except guest_access.GuestFault:
        return False
    handler = _USER_OPCODES.get(instruction.opcode)
    if handler is None and vcpu.kernel_mode:
        handler = _KERNEL_OPCODES.get(instruction.opcode)
    if handler is None:
        return False
    length = handler(vcpu, instruction)
    if not length:
        return False
    if length > 0:
        vcpu.state.rip += length
    return True


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


def execute_cpuid(vcpu: Vcpu) -> None:
    """The domain's CPUID policy for the leaf in EAX, ECX."""
    state = vcpu.state
    state.rax, state.rbx, state.rcx, state.rdx = vcpu.domain.cpuid.query(state.rax & MASK32, state.rcx & MASK32, vcpu)


# -- one function an instruction: the length to advance RIP by, 0 to refuse ---------------------------------------------
def _io_allowed(vcpu: Vcpu, port: int, size: int) -> bool:
    """IOPL set by PHYSDEVOP_set_iopl, or the bitmap of PHYSDEVOP_set_iobitmap."""
    if vcpu.iopl >= (1 if vcpu.kernel_mode else 3):
        return True
    if vcpu.io_bitmap is None or port + size > vcpu.io_bitmap[1]:
        return False
    try:
        bits = int.from_bytes(guest_access.read_kernel(vcpu, vcpu.io_bitmap[0] + (port >> 3), 2), "little")
    except guest_access.GuestFault:
        return False
    return not bits >> (port & 7) & ((1 << size) - 1)


def _port_access(vcpu: Vcpu, instruction: Instruction) -> int:
    """in/out: a domain without hardware reads all ones and writes to nothing, but for the interval timer."""
    opcode = instruction.opcode
    immediate = opcode & 0x08 == 0
    size = 1 if not opcode & 1 else 2 if instruction.operand16 else 4
    port = instruction.immediate if immediate else vcpu.state.rdx & 0xFFFF
    if not _io_allowed(vcpu, port, size):
        return 0
    if port in interval_timer.PORTS and size == 1:
        _timer_access(vcpu, port, write=bool(opcode & 2))
    elif not opcode & 2:
        if size == 4:
            vcpu.state.rax = MASK32
        else:
            vcpu.state.rax |= (1 << 8 * size) - 1
    return instruction.length + immediate


def _timer_access(vcpu: Vcpu, port: int, *, write: bool) -> None:
    timer, state = vcpu.domain.interval_timer, vcpu.state
    if write:
        timer.write(port, state.rax & 0xFF)
    else:
        state.rax = state.rax & ~0xFF | timer.read(port)


def _cli(vcpu: Vcpu, instruction: Instruction) -> int:
    return _set_events_masked(vcpu, instruction, masked=True)


def _sti(vcpu: Vcpu, instruction: Instruction) -> int:
    return _set_events_masked(vcpu, instruction, masked=False)


def _set_events_masked(vcpu: Vcpu, instruction: Instruction, *, masked: bool) -> int:
    if vcpu.iopl < (1 if vcpu.kernel_mode else 3):
        return 0
    vcpu.events_masked = masked
    return instruction.length


def _clts(vcpu: Vcpu, instruction: Instruction) -> int:
    set_task_switched(vcpu, on=False)
    return instruction.length


def _wbinvd(vcpu: Vcpu, instruction: Instruction) -> int:
    """Silently nothing for a domain without devices."""
    return instruction.length


def _read_control(vcpu: Vcpu, instruction: Instruction) -> int:
    values = {
        0: vcpu.cr0,
        2: vcpu.words[(vcpu.info + 16) >> 3],
        3: vcpu.kernel_root,
        4: vcpu.cr4,
    }
    if instruction.reg not in values:
        return 0
    setattr(vcpu.state, REGISTERS[instruction.rm], values[instruction.reg])
    return instruction.length + 1


def _write_control(vcpu: Vcpu, instruction: Instruction) -> int:
    value = getattr(vcpu.state, REGISTERS[instruction.rm])
    if instruction.reg == 0:
        if (value ^ vcpu.cr0) & ~CR0_TS:
            return 0
        set_task_switched(vcpu, on=bool(value & CR0_TS))
    elif instruction.reg == 2:
        vcpu.words[(vcpu.info + 16) >> 3] = value
    elif instruction.reg == 3:
        try:
            vcpu.domain.address_space.new_kernel_root(vcpu, value >> 12)
        except HypercallError:
            return 0
    elif instruction.reg == 4:
        vcpu.cr4 = value & vcpu.hypervisor.guest_cr4_mask
    else:
        return 0
    return instruction.length + 1


def _read_debug(vcpu: Vcpu, instruction: Instruction) -> int:
    try:
        value = debug_registers.get(vcpu, instruction.reg)
    except HypercallError:
        return 0
    setattr(vcpu.state, REGISTERS[instruction.rm], value)
    return instruction.length + 1


def _write_debug(vcpu: Vcpu, instruction: Instruction) -> int:
    try:
        debug_registers.set_register(vcpu, instruction.reg, getattr(vcpu.state, REGISTERS[instruction.rm]))
    except HypercallError:
        return 0
    return instruction.length + 1


def _rdmsr(vcpu: Vcpu, instruction: Instruction) -> int:
    value = msr.read(vcpu, vcpu.state.rcx & MASK32)
    if value is None:
        return 0
    vcpu.state.rax, vcpu.state.rdx = value & MASK32, value >> 32
    return instruction.length


def _wrmsr(vcpu: Vcpu, instruction: Instruction) -> int:
    state = vcpu.state
    allowed = msr.write(vcpu, state.rcx & MASK32, state.rax & MASK32 | (state.rdx & MASK32) << 32)
    return instruction.length if allowed else 0


def _rdtsc(vcpu: Vcpu, instruction: Instruction) -> int:
    counter = vcpu.hypervisor.engine.tsc()
    vcpu.state.rax, vcpu.state.rdx = counter & MASK32, counter >> 32
    return instruction.length


def _cpuid(vcpu: Vcpu, instruction: Instruction) -> int:
    execute_cpuid(vcpu)
    return instruction.length


_Emulator = Callable[["Vcpu", Instruction], int]
_USER_OPCODES: dict[int, _Emulator] = {
    **dict.fromkeys((0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF), _port_access),
    0xFA: _cli,
    0xFB: _sti,
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


def load_stack_segment(vcpu: Vcpu) -> bool:
    """MOV SS of a selector with RPL 3 in the guest kernel. On Xen that is an ordinary load (the kernel runs in ring 3); an engine
    that runs the
    kernel at another privilege refuses it, so it is carried out here."""
    try:
        instruction = Instruction(fetch(vcpu))
    except guest_access.GuestFault:
        return False
    if instruction.opcode != 0x8E or instruction.reg & 7 != 2 or instruction.modrm < 0xC0:
        return False
    state = vcpu.state
    selector = getattr(state, REGISTERS[instruction.rm]) & 0xFFFF
    loaded = descriptors.stack_segment(vcpu, selector) if selector & 3 == 3 else None
    if loaded is None:
        return False
    ss = state.segs[2]
    ss.selector = selector
    ss.base, ss.limit, ss.attributes = loaded
    state.dirty |= Dirty.SEGMENTS
    state.rip += instruction.length + 1
    return True


def far_transfer(vcpu: Vcpu) -> None:
    """iret, lret and far jumps in the guest kernel. On Xen they are ordinary ring-3 instructions: to a DPL-3 code segment they
    work, and the
    kernel stays in kernel mode."""
    state = vcpu.state
    try:
        instruction = Instruction(fetch(vcpu))
        target = _far_target(vcpu, instruction)
    except guest_access.GuestFault as fault:
        state.cr2 = fault.address
        traps.inject(vcpu, traps.VECTOR_PF, (1 if fault.present else 0) | (2 if fault.write else 0))
        return
    if target is None:
        traps.inject(vcpu, traps.VECTOR_UD)
        return
    rip, cs, rsp, flags, ss = target
    code = descriptors.code_segment(vcpu, cs) if cs & 3 == 3 else None
    stack = descriptors.stack_segment(vcpu, ss) if ss is not None else None
    if code is None or not traps.is_canonical(rip) or (ss is not None and stack is None):
        traps.inject(vcpu, traps.VECTOR_GP, cs & 0xFFFC if code is None else 0)
        return
    segs = state.segs
    segs[1].selector = cs
    segs[1].base, segs[1].limit, segs[1].attributes = code
    if ss is not None and stack is not None:
        segs[2].selector = ss
        segs[2].base, segs[2].limit, segs[2].attributes = stack
    if flags is not None:
        state.rflags = flags & traps.SETTABLE_FLAGS | 2 | traps.FLAG_IF
    state.rip, state.rsp = rip, rsp
    state.dirty |= Dirty.SEGMENTS


def _far_target(vcpu: Vcpu, instruction: Instruction) -> tuple[int, int, int, int | None, int | None] | None:
    """(RIP, CS, RSP, RFLAGS or None, SS or None) that the instruction asks for; None for forms that 64-bit code does not have."""
    state = vcpu.state
    wide = bool(instruction.rex & 8)
    size = 8 if wide else 2 if instruction.operand16 else 4
    form = {8: "Q", 4: "I", 2: "H"}[size]
    if instruction.opcode == 0xCF:
        rip, cs, flags, rsp, ss = struct.unpack(f"<5{form}", guest_access.read(vcpu, state.rsp, 5 * size))
        return rip, cs & 0xFFFF, rsp, flags, ss & 0xFFFF
    if instruction.opcode in (0xCB, 0xCA):
        rip, cs = struct.unpack(f"<2{form}", guest_access.read(vcpu, state.rsp, 2 * size))
        extra = struct.unpack("<H", guest_access.read(vcpu, state.rip + instruction.length, 2))[0] if instruction.opcode == 0xCA else 0
        return rip, cs & 0xFFFF, state.rsp + 2 * size + extra, None, None
    return None
