"""Emulated writes to page tables: a guest kernel may write an L1 table through its read-only mapping, and Xen carries the write
out after the same checks as mmu_update (ptwr, pv/ro-page-fault.c). The gate repeats what has been decoded here once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import capstone
from capstone import x86_const

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.instruction import MASK64, fetch
from pyxen.hypervisor.page_tables import ADDRESS, PRESENT
from pyxen.hypervisor.privileged_ops import retire

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
ARITHMETIC_FLAGS = CF | PF | AF | ZF | SF | OF
CACHE_LIMIT = 1024
#: What the gate can do, by its numbers (native/pyxen_table_writes.c).
NATIVE = ("mov", "xchg", "cmpxchg", "and", "or", "bts", "btr")


@dataclass(frozen=True, slots=True)
class Write:
    """A decoded instruction with a memory destination. ``register`` is the source's name in ``CpuState`` and its shift, or None."""

    operation: str
    size: int
    length: int
    register: str | None
    shift: int
    immediate: int


def emulate(vcpu: Vcpu, address: int) -> bool:
    """The kernel's write to ``address`` faulted on a present, read-only page: carry it out if that is one of its L1 tables. False:
    a real fault."""
    hypervisor = vcpu.hypervisor
    where = hypervisor.page_tables.l1_entry_address(vcpu.kernel_root, address)
    if where is None:
        return False
    mapping = vcpu.words[where >> 3]
    mfn = (mapping & ADDRESS) >> 12
    frames = hypervisor.frames
    if not mapping & PRESENT or not frames.type_count[mfn] or frames.type[mfn] != L1 or hypervisor.memory.owner[mfn] != vcpu.domain.domid:
        return False
    try:
        code = fetch(vcpu, 64)
        decoded = _decode(code)
    except GuestFault:  # another vCPU has just unmapped the code
        return False
    if decoded is None or (address & 7) + decoded.size > 8:
        return False
    machine = mfn << 12 | address & 0xFF8
    shift = 8 * (address & 7)
    mask = (1 << 8 * decoded.size) - 1
    state = vcpu.state
    source = getattr(state, decoded.register) >> decoded.shift & mask if decoded.register else decoded.immediate & mask
    while True:
        old = vcpu.words[machine >> 3]
        result = _OPERATIONS[decoded.operation](vcpu, old >> shift & mask, source, decoded)
        if result is None:
            break
        entry = old & ~(mask << shift) | result << shift
        try:
            if hypervisor.page_tables.write_entry(vcpu.domain, machine, entry, expected=old):
                break
        except HypercallError as refusal:
            hypervisor.guest_log(vcpu.domain.domid, f"page-table write of {entry:#x} refused: {refusal.reason}")
            return False
    _finish(vcpu, decoded, old >> shift & mask, source)
    if decoded.operation in NATIVE:
        number = _WIDE_AND_NUMBERED.index(decoded.register) if decoded.register else len(_WIDE_AND_NUMBERED)
        known = (NATIVE.index(decoded.operation), decoded.size, number, decoded.shift, decoded.immediate & MASK64)
        vcpu.domain.known_writes.remember(state.rip, code[: decoded.length], *known)
    retire(vcpu, decoded.length)
    return True


def _finish(vcpu: Vcpu, decoded: Write, old: int, source: int) -> None:
    """Registers and flags, only once the write has been accepted."""
    state = vcpu.state
    mask = (1 << 8 * decoded.size) - 1
    kind = decoded.operation
    if kind in ("xchg", "xadd") and decoded.register:
        _set_register(vcpu, decoded, old)
    if kind == "cmpxchg":
        accumulator = state.rax & mask
        state.rflags = _subtraction_flags(state.rflags, accumulator, old, decoded.size)
        if accumulator != old:
            state.rax = old if decoded.size >= 4 else state.rax & ~mask | old
    elif kind in ("and", "or", "xor"):
        result = {"and": old & source, "or": old | source, "xor": old ^ source}[kind]
        state.rflags = state.rflags & ~ARITHMETIC_FLAGS | _result_flags(result, decoded.size)
    elif kind in ("add", "xadd"):
        state.rflags = _addition_flags(state.rflags, old, source, decoded.size)
    elif kind == "sub":
        state.rflags = _subtraction_flags(state.rflags, old, source, decoded.size)
    elif kind in ("bts", "btr", "btc"):
        state.rflags = state.rflags & ~CF | (old >> source % (8 * decoded.size) & 1)


def _set_register(vcpu: Vcpu, decoded: Write, value: int) -> None:
    assert decoded.register
    state = vcpu.state
    if decoded.size < 4:
        keep = ~(((1 << 8 * decoded.size) - 1) << decoded.shift)
        value = getattr(state, decoded.register) & keep | value << decoded.shift
    setattr(state, decoded.register, value)


def _result_flags(result: int, size: int) -> int:
    parity = PF if bin(result & 0xFF).count("1") % 2 == 0 else 0
    return parity | (0 if result else ZF) | (SF if result >> (8 * size - 1) & 1 else 0)


def _addition_flags(flags: int, left: int, right: int, size: int) -> int:
    mask = (1 << 8 * size) - 1
    total = left + right
    result = total & mask
    overflow = OF if ~(left ^ right) & (left ^ result) & 1 << (8 * size - 1) else 0
    carry = CF if total > mask else 0
    return flags & ~ARITHMETIC_FLAGS | _result_flags(result, size) | carry | (AF if (left ^ right ^ result) & 0x10 else 0) | overflow


def _subtraction_flags(flags: int, left: int, right: int, size: int) -> int:
    mask = (1 << 8 * size) - 1
    result = (left - right) & mask
    overflow = OF if (left ^ right) & (left ^ result) & 1 << (8 * size - 1) else 0
    carry = CF if left < right else 0
    return flags & ~ARITHMETIC_FLAGS | _result_flags(result, size) | carry | (AF if (left ^ right ^ result) & 0x10 else 0) | overflow


def _compare_exchange(vcpu: Vcpu, old: int, source: int, decoded: Write) -> int | None:
    """None: the comparison failed and nothing is written."""
    return source if vcpu.state.rax & ((1 << 8 * decoded.size) - 1) == old else None


def _bit(source: int, decoded: Write) -> int:
    return 1 << source % (8 * decoded.size)


def _truncated(value: int, decoded: Write) -> int:
    return value & ((1 << 8 * decoded.size) - 1)


_OPERATIONS: dict[str, Callable[[Vcpu, int, int, Write], int | None]] = {
    "mov": lambda vcpu, old, source, decoded: source,
    "xchg": lambda vcpu, old, source, decoded: source,
    "cmpxchg": _compare_exchange,
    "and": lambda vcpu, old, source, decoded: old & source,
    "or": lambda vcpu, old, source, decoded: old | source,
    "xor": lambda vcpu, old, source, decoded: old ^ source,
    "add": lambda vcpu, old, source, decoded: _truncated(old + source, decoded),
    "xadd": lambda vcpu, old, source, decoded: _truncated(old + source, decoded),
    "sub": lambda vcpu, old, source, decoded: _truncated(old - source, decoded),
    "bts": lambda vcpu, old, source, decoded: old | _bit(source, decoded),
    "btr": lambda vcpu, old, source, decoded: old & ~_bit(source, decoded),
    "btc": lambda vcpu, old, source, decoded: old ^ _bit(source, decoded),
}

_decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_decoder.detail = True
_decoded: dict[bytes, Write | None] = {}

_WIDE = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
#: By the processor's numbers.
_WIDE_AND_NUMBERED = (*_WIDE, *(f"r{number}" for number in range(8, 16)))


def _register_names() -> dict[str, tuple[str, int]]:
    """Assembler name -> (member of CpuState, bits to shift right)."""
    names: dict[str, tuple[str, int]] = {}
    for wide in _WIDE:
        short = wide[1:]
        names[wide] = names["e" + short] = names[short] = (wide, 0)
        if short.endswith("x"):
            names[short[0] + "l"] = (wide, 0)
            names[short[0] + "h"] = (wide, 8)
        else:
            names[short + "l"] = (wide, 0)
    for number in range(8, 16):
        for suffix in ("", "d", "w", "b"):
            names[f"r{number}{suffix}"] = (f"r{number}", 0)
    return names


_REGISTERS = _register_names()


def _decode(code: bytes) -> Write | None:
    """Decode once per sequence of octets; None for what is not emulated."""
    if code not in _decoded:
        if len(_decoded) >= CACHE_LIMIT:
            _decoded.clear()
        _decoded[code] = _decode_new(code)
    return _decoded[code]


def _decode_new(code: bytes) -> Write | None:
    instruction = next(_decoder.disasm(code, 0, 1), None)
    if instruction is None:
        return None
    operation = instruction.mnemonic.removeprefix("lock ")
    operation = {"movabs": "mov", "movnti": "mov"}.get(operation, operation)
    operands = instruction.operands
    if operation not in _OPERATIONS or len(operands) != 2:
        return None
    target, source = operands
    if target.type != x86_const.X86_OP_MEM:
        if operation != "xchg" or source.type != x86_const.X86_OP_MEM:
            return None
        target, source = source, target
    if source.type == x86_const.X86_OP_IMM:
        return Write(operation, target.size, instruction.size, None, 0, source.imm)
    known = _REGISTERS.get(instruction.reg_name(source.reg)) if source.type == x86_const.X86_OP_REG else None
    if known is None:
        return None
    return Write(operation, target.size, instruction.size, known[0], known[1], 0)
