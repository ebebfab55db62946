"""Accesses to guest physical addresses without memory: the local APIC's page, and elsewhere what hardware without a device does (reads are
all ones, writes go nowhere).

The engine stops at the instruction; it is decoded and carried out here. Only the instructions that kernels use on devices are: moves,
exchange, and arithmetic with one operand in memory. Any other one, and a fetch or a page-table walk that needs such an address, ends the
domain.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import capstone
from capstone import x86_const as x86

from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hvm import interrupts, local_apic
from pyxen.hypervisor.hvm.guest_paging import physical_address

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

PF_WRITE, PF_FETCH = 2, 16
MASK64 = (1 << 64) - 1
LONGEST_INSTRUCTION = 15
STRING_BUDGET = 4096
CF, PF, AF, ZF, SF, DF, OF = 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800
ARITHMETIC_FLAGS = CF | PF | AF | ZF | SF | OF


def _registers() -> dict[str, tuple[str, int]]:
    """Name -> (member of the state, shift). The size comes with the operand."""
    table = {}
    for letter in "abcd":
        for name in (f"r{letter}x", f"e{letter}x", f"{letter}x", f"{letter}l"):
            table[name] = (f"r{letter}x", 0)
        table[f"{letter}h"] = (f"r{letter}x", 8)
    for base in ("sp", "bp", "si", "di"):
        for name in (f"r{base}", f"e{base}", base, f"{base}l"):
            table[name] = (f"r{base}", 0)
    for number in range(8, 16):
        for suffix in ("", "d", "w", "b"):
            table[f"r{number}{suffix}"] = (f"r{number}", 0)
    table["rip"] = table["eip"] = ("rip", 0)
    return table


_REGISTERS = _registers()
_SEGMENTS = {x86.X86_REG_FS: 4, x86.X86_REG_GS: 5, x86.X86_REG_CS: 1, x86.X86_REG_SS: 2, x86.X86_REG_DS: 3, x86.X86_REG_ES: 0}
#: A SIB octet without an index is decoded as one with these.
_NO_INDEX = (x86.X86_REG_INVALID, x86.X86_REG_EIZ, x86.X86_REG_RIZ)
_DECODERS: dict[int, capstone.Cs] = {}


def _decoder(mode: int) -> capstone.Cs:
    if mode not in _DECODERS:
        _DECODERS[mode] = capstone.Cs(capstone.CS_ARCH_X86, mode)
        _DECODERS[mode].detail = True
    return _DECODERS[mode]


class _Unsupported(Exception):
    """The access can't be carried out; the text says why."""


def access(vcpu: HvmVcpu) -> None:
    """An exit for an access outside of memory."""
    state = vcpu.state
    try:
        if state.error_code & PF_FETCH:
            raise _Unsupported("code is fetched from it")
        _Access(vcpu, state.qualification).carry_out()
    except (_Unsupported, guest_access.GuestFault) as reason:
        vcpu.domain.crash(
            f"vCPU {vcpu.vcpu_id}: no memory at guest physical address {state.qualification:#x}, rip {state.rip:#x}: {reason}"
        )


def string_io(vcpu: HvmVcpu, size: int, *, reads: bool, repeats: bool) -> None:
    """INS and OUTS on a port that nobody has: INS stores ones."""
    state = vcpu.state
    count = min(state.rcx, STRING_BUDGET) if repeats else 1
    step = -size if state.rflags & DF else size
    pointer = "rdi" if reads else "rsi"
    if reads and count:
        base = state.segs[0].base if not _is_64_bit(vcpu) else 0
        start = state.rdi + base - (size * (count - 1) if step < 0 else 0)
        try:
            guest_access.write(vcpu, start & MASK64, b"\xff" * (size * count))
        except guest_access.GuestFault as fault:
            interrupts.raise_page_fault(vcpu, fault.address, PF_WRITE)
            return
    setattr(state, pointer, getattr(state, pointer) + step * count & MASK64)
    if repeats:
        state.rcx -= count
        if state.rcx:
            return  # the instruction comes again
    state.rip += state.instruction_length


def _is_64_bit(vcpu: HvmVcpu) -> bool:
    return bool(vcpu.state.efer & 1 << 10 and vcpu.state.segs[1].attributes >> 21 & 1)


def _mode(vcpu: HvmVcpu) -> int:
    if _is_64_bit(vcpu):
        return int(capstone.CS_MODE_64)
    return int(capstone.CS_MODE_32 if vcpu.state.segs[1].attributes >> 22 & 1 else capstone.CS_MODE_16)


def _fetch(vcpu: HvmVcpu) -> bytes:
    rip = vcpu.state.rip + (0 if _is_64_bit(vcpu) else vcpu.state.segs[1].base)
    room = 4096 - (rip & 0xFFF)
    code = guest_access.read(vcpu, rip, min(room, LONGEST_INSTRUCTION))
    if room < LONGEST_INSTRUCTION:
        try:
            code += guest_access.read(vcpu, rip + room, LONGEST_INSTRUCTION - room)
        except guest_access.GuestFault:
            pass  # it may end on this page
    return code


def read_physical(vcpu: HvmVcpu, address: int, size: int) -> int:
    """What a read of ``size`` octets, not across a page, gives where there is no memory, or none that may be written."""
    machine = vcpu.container.physical_map.machine_address(address, write=False)
    if machine is not None:
        return int.from_bytes(vcpu.octets[machine : machine + size], "little")
    apic = vcpu.local_apic
    if address & ~0xFFF == local_apic.BASE_ADDRESS and apic.base & local_apic.ENABLED and not apic.is_x2apic:
        value: int = apic.read(address & 0xFF0) if address & 0xC == 0 else 0
        return value >> (address & 3) * 8 & (1 << 8 * size) - 1
    return (1 << 8 * size) - 1


def write_physical(vcpu: HvmVcpu, address: int, size: int, value: int) -> None:
    """A write where there is no memory that may be written: it goes nowhere. The APIC takes aligned doublewords."""
    apic = vcpu.local_apic
    if address & ~0xFFF == local_apic.BASE_ADDRESS and apic.base & local_apic.ENABLED and not apic.is_x2apic:
        if size == 4 and not address & 0xF:
            apic.write(address & 0xFF0, value)


class _Access:
    """One instruction with an operand at ``physical``."""

    def __init__(self, vcpu: HvmVcpu, physical: int) -> None:
        self._vcpu = vcpu
        self._state = vcpu.state
        instruction = next(_decoder(_mode(vcpu)).disasm(_fetch(vcpu), 0, 1), None)
        if instruction is None:
            raise _Unsupported("no known instruction")
        self._instruction = instruction
        self._operation = instruction.mnemonic.split()[-1]
        self._prefixed = instruction.mnemonic.startswith("rep")
        self._operands = instruction.operands
        self._physical = physical
        memory = [index for index, operand in enumerate(self._operands) if operand.type == x86.X86_OP_MEM]
        if len(memory) != 1 or len(self._operands) > 2:
            raise _Unsupported(self._text)
        self._memory = memory[0]
        self._size = self._operands[self._memory].size
        linear = self._linear(self._operands[self._memory].mem)
        found = physical_address(vcpu, vcpu.container.physical_map, linear, write=False)
        if found is None or found >> 12 != physical >> 12 or (found & 0xFFF) + self._size > 4096:
            raise _Unsupported("page tables or stacks are there")
        self._physical = found

    @property
    def _text(self) -> str:
        return f"{self._instruction.mnemonic} {self._instruction.op_str} is not emulated"

    def _linear(self, memory: x86.x86_op_mem) -> int:
        """The operand's linear address. A string instruction's are in RDI or RSI, as decoded."""
        name = self._instruction.reg_name
        address: int = memory.disp
        if memory.base:
            address += self._register(name(memory.base), 8)
            if name(memory.base) in ("rip", "eip"):
                address += self._instruction.size
        if memory.index not in _NO_INDEX:
            address += self._register(name(memory.index), 8) * memory.scale
        address &= (1 << 8 * int(self._instruction.addr_size)) - 1
        segment = _SEGMENTS.get(memory.segment, 3)
        if not _is_64_bit(self._vcpu) or segment >= 4:
            address += self._state.segs[segment].base
        return address & (MASK64 if _is_64_bit(self._vcpu) else 0xFFFFFFFF)

    def _register(self, name: str, size: int) -> int:
        member, shift = _REGISTERS[name]
        value: int = getattr(self._state, member)
        return value >> shift & (1 << 8 * size) - 1

    def _value(self, index: int) -> int:
        operand = self._operands[index]
        mask = (1 << 8 * int(operand.size)) - 1
        if operand.type == x86.X86_OP_IMM:
            return int(operand.imm & mask)
        if operand.type == x86.X86_OP_REG:
            name = self._instruction.reg_name(operand.reg)
            if name not in _REGISTERS:
                raise _Unsupported(self._text)
            return self._register(name, operand.size)
        return read_physical(self._vcpu, self._physical, int(operand.size))

    def _store(self, index: int, value: int) -> None:
        operand = self._operands[index]
        size = operand.size
        if operand.type == x86.X86_OP_MEM:
            write_physical(self._vcpu, self._physical, size, value & (1 << 8 * size) - 1)
            return
        name = self._instruction.reg_name(operand.reg)
        if name not in _REGISTERS:
            raise _Unsupported(self._text)
        member, shift = _REGISTERS[name]
        mask = (1 << 8 * size) - 1
        old = 0 if size >= 4 else getattr(self._state, member) & ~(mask << shift)
        setattr(self._state, member, old | (value & mask) << shift)

    def carry_out(self) -> None:
        operation = _OPERATIONS.get(self._operation)
        if operation is None or (self._prefixed and operation is not _store_string):
            raise _Unsupported(self._text)
        if operation(self):
            self._state.rip = self._state.rip + self._instruction.size & MASK64

    # What the operations below use.
    @property
    def operand_size(self) -> int:
        return int(self._size)

    def values(self) -> tuple[int, int]:
        """Destination and source."""
        return self._value(0), self._value(1)

    def set_destination(self, value: int) -> None:
        self._store(0, value)

    def exchange(self) -> None:
        """Both operands."""
        first, second = self.values()
        self._store(0, second)
        self._store(1, first)

    def source(self) -> tuple[int, int]:
        """Value and size in octets."""
        return self._value(1), int(self._operands[1].size)

    def set_flags(self, wide: int, left: int, right: int, *, subtracts: bool | None) -> None:
        """As after an operation with result ``wide``; None: a logical one."""
        bits = 8 * self.operand_size
        result = wide & (1 << bits) - 1
        sign = 1 << bits - 1
        flags = (ZF if not result else 0) | (SF if result & sign else 0) | (PF if not (result & 0xFF).bit_count() & 1 else 0)
        if subtracts is not None:
            carry = wide < 0 if subtracts else wide >> bits
            overflow = (left ^ (right if subtracts else result)) & (left ^ result if subtracts else right ^ result) & sign
            flags |= (CF if carry else 0) | (OF if overflow else 0) | ((left ^ right ^ result) & AF)
        self._state.rflags = self._state.rflags & ~ARITHMETIC_FLAGS | flags

    def store_elements(self) -> bool:
        """STOS. -> whether it is complete."""
        state = self._state
        step = -self.operand_size if state.rflags & DF else self.operand_size
        write_physical(self._vcpu, self._physical, self.operand_size, state.rax & (1 << 8 * self.operand_size) - 1)
        state.rdi = state.rdi + step & MASK64
        if self._prefixed:
            state.rcx = state.rcx - 1 & MASK64
            return not state.rcx
        return True


def _move(access: _Access) -> bool:
    access.set_destination(access.source()[0])
    return True


def _move_signed(access: _Access) -> bool:
    value, size = access.source()
    access.set_destination(value - (1 << 8 * size) if value >> 8 * size - 1 else value)
    return True


def _exchange(access: _Access) -> bool:
    access.exchange()
    return True


def _store_string(access: _Access) -> bool:
    return access.store_elements()


def _arithmetic(compute: Callable[[int, int], int], *, subtracts: bool | None, stores: bool = True) -> Callable[[_Access], bool]:
    def operate(access: _Access) -> bool:
        left, right = access.values()
        wide = compute(left, right)
        if stores:
            access.set_destination(wide)
        access.set_flags(wide, left, right, subtracts=subtracts)
        return True

    return operate


#: By mnemonic. -> whether the instruction is complete.
_OPERATIONS: dict[str, Callable[[_Access], bool]] = {
    "mov": _move,
    "movabs": _move,
    "movzx": _move,
    "movsx": _move_signed,
    "movsxd": _move_signed,
    "xchg": _exchange,
    "stosb": _store_string,
    "stosw": _store_string,
    "stosd": _store_string,
    "stosq": _store_string,
    "and": _arithmetic(lambda left, right: left & right, subtracts=None),
    "or": _arithmetic(lambda left, right: left | right, subtracts=None),
    "xor": _arithmetic(lambda left, right: left ^ right, subtracts=None),
    "test": _arithmetic(lambda left, right: left & right, subtracts=None, stores=False),
    "add": _arithmetic(lambda left, right: left + right, subtracts=False),
    "sub": _arithmetic(lambda left, right: left - right, subtracts=True),
    "cmp": _arithmetic(lambda left, right: left - right, subtracts=True, stores=False),
}
