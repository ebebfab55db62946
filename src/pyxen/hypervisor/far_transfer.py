"""Far jumps, calls and returns, and iret, in the guest kernel.

On Xen they are ordinary instructions of ring 3, where the kernel runs: they lead to a code segment of DPL 3, and the kernel stays
in kernel mode. An engine that runs the kernel at another privilege can't let its selectors be looked at, so it is done here (Intel SDM
volume 2: CALL, IRET, JMP, RET). There are no gates and no tasks: a descriptor of theirs is #GP, as Xen has it for 64-bit domains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.engine.interface import CS, SS, Dirty
from pyxen.hypervisor import descriptors, guest_access, traps
from pyxen.hypervisor.instruction import LONG, MASK32, Instruction, InstructionFault, linear

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

NOT_PRESENT, STACK_FAULT, GENERAL_PROTECTION = 11, 12, 13
_CALL_POINTER, _JUMP_POINTER, _GROUP5, _CALL_MEMORY, _JUMP_MEMORY = 0x9A, 0xEA, 0xFF, 3, 5
_RETURN, _RETURN_AND_POP, _IRET = 0xCB, 0xCA, 0xCF


def far_transfer(vcpu: Vcpu) -> None:
    """The far transfer at RIP, or the exception that it raises; registers are as before then."""
    state = vcpu.state
    try:
        _execute(vcpu, Instruction(vcpu))
    except guest_access.GuestFault as fault:
        state.cr2 = fault.address
        traps.inject(vcpu, traps.VECTOR_PF, (1 if fault.present else 0) | (2 if fault.write else 0))
    except InstructionFault as fault:
        traps.inject(vcpu, fault.vector, fault.error_code)
    except ValueError:
        traps.inject(vcpu, traps.VECTOR_UD)


def _execute(vcpu: Vcpu, instruction: Instruction) -> None:
    opcode = instruction.opcode
    if opcode == _IRET:
        _iret(vcpu, instruction)
    elif opcode in (_RETURN, _RETURN_AND_POP):
        rip, selector = _pop(vcpu, instruction, 2)
        loaded = _code_segment(vcpu, selector & 0xFFFF, returning=True)
        _check_target(rip, loaded)
        _move_stack(vcpu, instruction, 2 * instruction.operand_size + instruction.immediate)
        _enter(vcpu, rip, selector & 0xFFFF, loaded)
    else:
        _jump_or_call(vcpu, instruction)


def _jump_or_call(vcpu: Vcpu, instruction: Instruction) -> None:
    opcode, size = instruction.opcode, instruction.operand_size
    if opcode in (_CALL_POINTER, _JUMP_POINTER) and instruction.bits != 64:
        rip, selector = instruction.far_pointer
        calls = opcode == _CALL_POINTER
    elif opcode == _GROUP5 and instruction.reg & 7 in (_CALL_MEMORY, _JUMP_MEMORY):
        pointer = guest_access.read(vcpu, instruction.memory_operand(size + 2), size + 2)
        rip, selector = int.from_bytes(pointer[:size], "little"), int.from_bytes(pointer[size:], "little")
        calls = instruction.reg & 7 == _CALL_MEMORY
    else:
        raise ValueError("no far transfer")
    loaded = _code_segment(vcpu, selector, returning=False)
    if calls:
        segs = vcpu.state.segs
        back = (vcpu.state.rip + instruction.length).to_bytes(9, "little")[:size]
        frame = back + segs[CS].selector.to_bytes(size, "little")
        pointer_mask = (1 << 8 * instruction.stack_size) - 1
        top = vcpu.state.rsp - 2 * size & pointer_mask
        address = linear(vcpu, SS, top, 2 * size, write=True, bits=instruction.bits)
        _check_target(rip, loaded)
        guest_access.write(vcpu, address, frame)
        _move_stack(vcpu, instruction, -2 * size)
    else:
        _check_target(rip, loaded)
    _enter(vcpu, rip, selector, loaded)


def _iret(vcpu: Vcpu, instruction: Instruction) -> None:
    """In 64-bit code RSP and SS are always part of the frame; elsewhere a return to the same privilege leaves them alone."""
    state = vcpu.state
    if state.rflags & traps.FLAG_NT:
        raise InstructionFault(GENERAL_PROTECTION)
    stack = None
    if instruction.bits == 64:
        rip, selector, flags, rsp, stack_selector = _pop(vcpu, instruction, 5)
        loaded = _code_segment(vcpu, selector & 0xFFFF, returning=True)
        stack_selector &= 0xFFFF
        stack = _stack_segment(vcpu, stack_selector, loaded)
    else:
        rip, selector, flags = _pop(vcpu, instruction, 3)
        loaded = _code_segment(vcpu, selector & 0xFFFF, returning=True)
    _check_target(rip, loaded)
    if stack is None:
        _move_stack(vcpu, instruction, 3 * instruction.operand_size)
    else:
        state.rsp = rsp
        segment = state.segs[SS]
        segment.selector = stack_selector
        segment.base, segment.limit, segment.attributes = stack
    if instruction.operand_size == 2:
        flags = flags & 0xFFFF | state.rflags & ~0xFFFF
    state.rflags = flags & traps.SETTABLE_FLAGS | 2 | traps.FLAG_IF
    _enter(vcpu, rip, selector & 0xFFFF, loaded)


def _pop(vcpu: Vcpu, instruction: Instruction, count: int) -> list[int]:
    """The topmost ``count`` elements of the stack, which stay there."""
    size = instruction.operand_size
    top = vcpu.state.rsp & (1 << 8 * instruction.stack_size) - 1
    data = guest_access.read(vcpu, linear(vcpu, SS, top, count * size, write=False, bits=instruction.bits), count * size)
    return [int.from_bytes(data[start : start + size], "little") for start in range(0, count * size, size)]


def _move_stack(vcpu: Vcpu, instruction: Instruction, by: int) -> None:
    state, bits = vcpu.state, 8 * instruction.stack_size
    moved = state.rsp + by & (1 << bits) - 1
    state.rsp = state.rsp & ~0xFFFF | moved if bits == 16 else moved


def _code_segment(vcpu: Vcpu, selector: int, *, returning: bool) -> descriptors.Loaded:
    """What CS is to hold. Returns need RPL 3, the level that they come from; jumps and calls take any."""
    error_code = selector & 0xFFFC
    if not error_code or (returning and selector & 3 != 3):
        raise InstructionFault(GENERAL_PROTECTION, error_code)
    loaded = descriptors.code_segment(vcpu, selector | 3)
    if loaded is None:
        raise InstructionFault(_refusal(vcpu, selector, code=True), error_code)
    return loaded


def _stack_segment(vcpu: Vcpu, selector: int, code: descriptors.Loaded) -> descriptors.Loaded:
    """What SS is to hold. An iret to ring 3 needs one even in 64-bit code."""
    error_code = selector & 0xFFFC
    loaded = descriptors.stack_segment(vcpu, selector) if selector & 3 == 3 else None
    if loaded is None:
        absent = selector & 3 == 3 and error_code and _refusal(vcpu, selector, code=False) == NOT_PRESENT
        raise InstructionFault(STACK_FAULT if absent else GENERAL_PROTECTION, error_code)
    return loaded


def _refusal(vcpu: Vcpu, selector: int, *, code: bool) -> int:
    """#NP for a proper descriptor that is not present, else #GP."""
    value = descriptors.descriptor(vcpu, selector)
    if value is not None and not value >> 47 & 1 and descriptors.is_loadable(value | 1 << 47, code=code):
        return NOT_PRESENT
    return GENERAL_PROTECTION


def _check_target(rip: int, loaded: descriptors.Loaded) -> None:
    _, limit, attributes = loaded
    if not traps.is_canonical(rip) if attributes & LONG else rip > limit:
        raise InstructionFault(GENERAL_PROTECTION)


def _enter(vcpu: Vcpu, rip: int, selector: int, loaded: descriptors.Loaded) -> None:
    state = vcpu.state
    segment = state.segs[CS]
    segment.selector = selector | 3
    segment.base, segment.limit, segment.attributes = loaded
    state.rip = rip if loaded[2] & LONG else rip & MASK32
    state.dirty |= Dirty.SEGMENTS
