"""Decoding of the few instructions that the hypervisor carries out for a guest: prefixes, opcode, ModRM, operand addresses.

64-bit code, and 32- and 16-bit code in compatibility mode. Each address goes through its segment as the processor's would: base, limit,
type, canonical form (Intel SDM volumes 1, 3.3.7, and 3, 5.3-5.5).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.engine.interface import CS, DS, ES, FS, GS, SS
from pyxen.hypervisor import guest_access

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

REGISTERS = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
RSP, RBP, RIP_RELATIVE = 4, 5, 5
MASK16, MASK32, MASK64 = 0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
MAX_INSTRUCTION = 15
VECTOR_SS, VECTOR_GP = 12, 13

#: Bits of a segment's attributes (second doubleword of its descriptor).
WRITABLE, EXPAND_DOWN, CODE, PRESENT, LONG, BIG = 1 << 9, 1 << 10, 1 << 11, 1 << 15, 1 << 21, 1 << 22
_OVERRIDES = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}
_IMMEDIATE_OCTET = frozenset((0xE4, 0xE5, 0xE6, 0xE7))
_IMMEDIATE_WORD = frozenset((0xC2, 0xCA))
_FAR_POINTER = frozenset((0x9A, 0xEA))


class InstructionFault(Exception):
    """The instruction raises an exception of its own, other than #PF."""

    def __init__(self, vector: int, error_code: int = 0) -> None:
        super().__init__(f"exception {vector} (error code {error_code:#x})")
        self.vector = vector
        self.error_code = error_code


def code_bits(vcpu: Vcpu) -> int:
    """64, 32 or 16: the kind of code that the vCPU executes."""
    attributes = vcpu.state.segs[CS].attributes
    return 64 if attributes & LONG else 32 if attributes & BIG else 16


def linear(vcpu: Vcpu, segment: int, offset: int, size: int, *, write: bool, bits: int) -> int:
    """Linear address of ``size`` octets at ``offset`` of a segment register. Raises InstructionFault: #SS(0) for the stack, else #GP(0)."""
    segs = vcpu.state.segs
    fault = InstructionFault(VECTOR_SS if segment == SS else VECTOR_GP)
    if bits == 64:
        address = (offset + (segs[segment].base if segment in (FS, GS) else 0)) & MASK64
        if (1 << 47) - size < address < (1 << 64) - (1 << 47) or address + size > 1 << 64:
            raise fault
        return int(address)
    attributes, limit = segs[segment].attributes, segs[segment].limit
    readable = not attributes & CODE or attributes & WRITABLE
    if not attributes & PRESENT or not readable or (write and attributes & (CODE | WRITABLE) != WRITABLE):
        raise fault
    last = offset + size - 1
    if attributes & CODE or not attributes & EXPAND_DOWN:
        inside = last <= limit
    else:
        inside = limit < offset and last <= (MASK32 if attributes & BIG else MASK16)
    if not inside:
        raise fault
    return int(segs[segment].base + offset & MASK32)


class Instruction:
    """The instruction at RIP. Raises GuestFault when its octets aren't there, ValueError when they are none that is known here."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.bits = code_bits(vcpu)
        self._code = fetch(vcpu, self.bits)
        self._position = 0
        self.rex = 0
        self.repeated = False
        self.override: int | None = None
        self.operand_prefix = self.address_prefix = False
        self._prefixes()
        self.opcode = self._octet()
        if self.opcode == 0x0F:
            self.opcode = 0x0F00 | self._octet()
        self.modrm = 0
        self.immediate = 0
        self.far_pointer = (0, 0)  #: offset, selector
        self._memory: tuple[int, int] | None = None  # segment, offset
        self._operands()
        self.length = self._position

    def _octet(self) -> int:
        return self._number(1)

    def _number(self, size: int) -> int:
        start = self._position
        self._position += size
        if self._position > MAX_INSTRUCTION:
            raise ValueError("an instruction of more than 15 octets")
        return int.from_bytes(self._code[start : start + size], "little")

    def _prefixes(self) -> None:
        while True:
            octet = self._octet()
            if octet == 0x66:
                self.operand_prefix = True
            elif octet == 0x67:
                self.address_prefix = True
            elif octet in (0xF2, 0xF3):
                self.repeated = True
            elif octet in _OVERRIDES:
                self.override = _OVERRIDES[octet]
            elif self.bits == 64 and octet & 0xF0 == 0x40:
                self.rex = octet
                return
            else:
                self._position -= 1
                return

    def _operands(self) -> None:
        opcode = self.opcode
        if opcode in _IMMEDIATE_OCTET:
            self.immediate = self._octet()
        elif opcode in _IMMEDIATE_WORD:
            self.immediate = self._number(2)
        elif opcode in _FAR_POINTER:
            self.far_pointer = self._number(self.operand_size), self._number(2)
        elif opcode == 0xFF:
            self.modrm = self._octet()
            if self.modrm < 0xC0:
                self._memory = self._memory_16() if self.address_size == 2 else self._memory_32()
        elif 0x0F20 <= opcode <= 0x0F23 or opcode == 0x0F01:
            self.modrm = self._octet()

    @property
    def operand_size(self) -> int:
        """Octets: 2, 4, or 8 with REX.W."""
        if self.rex & 8:
            return 8
        return 2 if self.operand_prefix != (self.bits == 16) else 4

    @property
    def address_size(self) -> int:
        """Octets: 2, 4 or 8."""
        if self.bits == 64:
            return 4 if self.address_prefix else 8
        return 2 if self.address_prefix != (self.bits == 16) else 4

    @property
    def stack_size(self) -> int:
        """Octets of the stack pointer that count: 8, or by SS.B."""
        if self.bits == 64:
            return 8
        return 4 if self._vcpu.state.segs[SS].attributes & BIG else 2

    @property
    def reg(self) -> int:
        """ModRM.reg with REX.R."""
        return self.modrm >> 3 & 7 | (self.rex & 4) << 1

    @property
    def rm(self) -> int:
        """ModRM.rm with REX.B, for register operands."""
        return self.modrm & 7 | (self.rex & 1) << 3

    def data_segment(self) -> int:
        """DS, or what a prefix says; in 64-bit code only FS and GS count."""
        if self.override is None or (self.bits == 64 and self.override not in (FS, GS)):
            return DS
        return self.override

    def memory_operand(self, size: int) -> int:
        """Linear address of ``size`` octets to read. Raises InstructionFault; ValueError for a register."""
        if self._memory is None:
            raise ValueError("a register operand")
        segment, offset = self._memory
        return linear(self._vcpu, segment, offset, size, write=False, bits=self.bits)

    def _register(self, number: int) -> int:
        value: int = getattr(self._vcpu.state, REGISTERS[number])
        return value

    def _with_default(self, segment: int) -> int:
        return self.data_segment() if self.override is not None or segment == DS else segment

    def _memory_32(self) -> tuple[int, int]:
        """32- and 64-bit addressing: SIB, displacements, RIP-relative."""
        mode, rm = self.modrm >> 6, self.modrm & 7
        offset, segment = 0, DS
        if rm == RSP:
            sib = self._octet()
            index, base = sib >> 3 & 7 | (self.rex & 2) << 2, sib & 7
            if index != RSP:
                offset = self._register(index) << (sib >> 6)
        else:
            base = rm
        if base == RBP and mode == 0:
            offset += _signed(self._number(4), 32)
            if rm == RIP_RELATIVE and self.bits == 64:
                offset += self._vcpu.state.rip + self._position
        else:
            offset += self._register(base | (self.rex & 1) << 3)
            if base in (RSP, RBP) and not self.rex & 1:
                segment = SS
            if mode:
                offset += _signed(self._octet(), 8) if mode == 1 else _signed(self._number(4), 32)
        return self._with_default(segment), offset & (1 << 8 * self.address_size) - 1

    def _memory_16(self) -> tuple[int, int]:
        mode, rm = self.modrm >> 6, self.modrm & 7
        if mode == 0 and rm == 6:
            return self._with_default(DS), self._number(2)
        bases = ((3, 6), (3, 7), (5, 6), (5, 7), (6,), (7,), (5,), (3,))[rm]
        offset = sum(self._register(number) for number in bases)
        if mode:
            offset += _signed(self._octet(), 8) if mode == 1 else self._number(2)
        return self._with_default(SS if 5 in bases else DS), offset & MASK16


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def fetch(vcpu: Vcpu, bits: int) -> bytes:
    """Up to 15 octets at RIP, fewer at the end of what is mapped, padded with zeroes."""
    start = vcpu.state.rip if bits == 64 else vcpu.state.segs[CS].base + vcpu.state.rip & MASK32
    room = 4096 - (start & 0xFFF)
    code = guest_access.read(vcpu, start, min(room, MAX_INSTRUCTION))
    if room < MAX_INSTRUCTION:
        try:
            code += guest_access.read(vcpu, start + room, MAX_INSTRUCTION - room)
        except guest_access.GuestFault:
            code = code.ljust(MAX_INSTRUCTION, b"\0")
    return code
