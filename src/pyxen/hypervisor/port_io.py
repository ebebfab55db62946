"""Port I/O of PV guests: who may (IOPL, I/O bitmap), what the ports of a domain without hardware answer, and the string forms.

Xen's pv/emul-priv-op.c: guest_io_okay, guest_io_read, guest_io_write, rep_ins, rep_outs. A port that is nobody's reads all ones and
swallows writes. The domain has channel 2 of an interval timer, the index register of a CMOS clock, and PCI's configuration address.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.engine.interface import ES
from pyxen.hypervisor import guest_access, interval_timer
from pyxen.hypervisor.instruction import MASK32, Instruction, InstructionFault, linear

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

CMOS_INDEX_PORT, PCI_ADDRESS_PORT = 0x70, 0xCF8
FLAG_TF, FLAG_DF = 1 << 8, 1 << 10
#: Elements of a repeated instruction for one exit: the rest after a look at what is pending.
LONGEST_BATCH = 512
#: #PF error code of an emulated write, whatever the entry says, as Xen reports it.
PF_WRITE = 2
BREAKPOINT_IO = 2
CR4_DE = 8


class EmulatedPageFault(Exception):
    """An emulated memory access faults: #PF with this error code, CR2 = ``address``."""

    def __init__(self, address: int, error_code: int) -> None:
        super().__init__(f"page fault at {address:#x}")
        self.address = address
        self.error_code = error_code


def is_privileged(vcpu: Vcpu) -> bool:
    """Whether the virtual IOPL covers the vCPU's level (iopl_ok): 3 in user mode, 1 in the kernel, 0 with architectural_iopl."""
    level = 3 if not vcpu.kernel_mode else 0 if vcpu.domain.architectural_iopl else 1
    return vcpu.iopl >= level


def is_allowed(vcpu: Vcpu, port: int, size: int) -> bool:
    """IOPL set by PHYSDEVOP_set_iopl, or the bitmap of PHYSDEVOP_set_iobitmap, whose last port is never allowed (as on Xen)."""
    if is_privileged(vcpu):
        return True
    if vcpu.io_bitmap is None or port + size >= vcpu.io_bitmap[1]:
        return False
    where = vcpu.io_bitmap[0] + (port >> 3)
    bits = _bitmap_octet(vcpu, where) | _bitmap_octet(vcpu, where + 1) << 8
    return not bits >> (port & 7) & ((1 << size) - 1)


def _bitmap_octet(vcpu: Vcpu, address: int) -> int:
    """What can't be read allows nothing."""
    try:
        return guest_access.read_kernel(vcpu, address, 1)[0]
    except guest_access.GuestFault:
        return 0xFF


def read(domain: Domain, port: int, size: int) -> int:
    """``size`` octets (1, 2, 4) from ``port``, each octet from its own port."""
    if port == PCI_ADDRESS_PORT and size == 4:
        return domain.pci_address
    value = 0
    for position in range(size):
        octet = 0xFF
        if port + position in interval_timer.PORTS:
            octet = domain.interval_timer.read(port + position)
        elif port + position == CMOS_INDEX_PORT:
            octet = domain.cmos_index
        value |= octet << 8 * position
    return value


def write(domain: Domain, port: int, size: int, untrusted: int) -> None:
    """``size`` octets (1, 2, 4) to ``port``, each octet to its own port."""
    if port == PCI_ADDRESS_PORT and size == 4:
        domain.pci_address = untrusted & MASK32
        return
    for position in range(size):
        octet = untrusted >> 8 * position & 0xFF
        if port + position in interval_timer.PORTS:
            domain.interval_timer.write(port + position, octet)
        elif port + position == CMOS_INDEX_PORT:
            domain.cmos_index = octet


def matching_breakpoints(vcpu: Vcpu, port: int, size: int) -> int:
    """DR6 bits of the enabled I/O breakpoints that the access touches (check_guest_io_breakpoint); needs CR4.DE."""
    dr = vcpu.state.dr
    if not dr[7] & 0xFF or not vcpu.cr4 & CR4_DE:
        return 0
    matches = 0
    for number in range(4):
        kind, length = dr[7] >> (16 + 4 * number) & 3, (1, 2, 8, 4)[dr[7] >> (18 + 4 * number) & 3]
        enabled = dr[7] >> (2 * number) & 3
        if enabled and kind == BREAKPOINT_IO and dr[number] < port + size and dr[number] + length > port:
            matches |= 1 << number
    return matches


def single_access(vcpu: Vcpu, instruction: Instruction) -> int | None:
    """in, out. -> the DR6 bits of breakpoints, or None for #GP."""
    opcode = instruction.opcode
    size = 1 if not opcode & 1 else 2 if instruction.operand_size == 2 else 4
    state = vcpu.state
    port = state.rdx & 0xFFFF if opcode & 8 else instruction.immediate
    if not is_allowed(vcpu, port, size):
        return None
    if opcode & 2:
        write(vcpu.domain, port, size, state.rax)
    elif size == 4:
        state.rax = read(vcpu.domain, port, 4)
    else:
        state.rax = state.rax >> 8 * size << 8 * size | read(vcpu.domain, port, size)
    return matching_breakpoints(vcpu, port, size)


def string_access(vcpu: Vcpu, instruction: Instruction) -> int | None:
    """ins, outs, with or without REP. -> the DR6 bits of breakpoints, or None for #GP.

    Repeated ones go on by restarting the instruction (its length becomes 0) until RCX is 0. Raises EmulatedPageFault, InstructionFault with
    everything done up to the element that faults.
    """
    opcode, state = instruction.opcode, vcpu.state
    size = 1 if not opcode & 1 else 2 if instruction.operand_size == 2 else 4
    port = state.rdx & 0xFFFF
    mask = (1 << 8 * instruction.address_size) - 1
    outward = bool(opcode & 2)
    index = "rsi" if outward else "rdi"
    segment = instruction.data_segment() if outward else ES
    if instruction.repeated and not state.rcx & mask:
        return 0
    if not is_allowed(vcpu, port, size):
        return None
    matches = matching_breakpoints(vcpu, port, size)
    batch = LONGEST_BATCH if instruction.repeated and not matches and not state.rflags & FLAG_TF else 1
    for _ in range(batch):
        offset = getattr(state, index) & mask
        _move_element(vcpu, instruction, segment, offset, port, size, outward=outward)
        _set_counter(vcpu, index, offset + (-size if state.rflags & FLAG_DF else size), mask)
        if instruction.repeated:
            _set_counter(vcpu, "rcx", (state.rcx & mask) - 1, mask)
            if not state.rcx & mask:
                break
    if instruction.repeated and state.rcx & mask:
        instruction.length = 0
    return matches


def _set_counter(vcpu: Vcpu, name: str, value: int, mask: int) -> None:
    """16-bit counters leave the rest of their register, 32-bit ones clear it."""
    old = getattr(vcpu.state, name)
    setattr(vcpu.state, name, value & mask | (old & ~mask if mask == 0xFFFF else 0))


def _move_element(vcpu: Vcpu, instruction: Instruction, segment: int, offset: int, port: int, size: int, *, outward: bool) -> None:
    address = linear(vcpu, segment, offset, size, write=not outward, bits=instruction.bits)
    try:
        if outward:
            write(vcpu.domain, port, size, int.from_bytes(guest_access.read(vcpu, address, size), "little"))
        else:
            guest_access.write(vcpu, address, read(vcpu.domain, port, size).to_bytes(size, "little"))
    except guest_access.GuestFault as fault:
        if guest_access.LOWER_HALF_END <= fault.address < guest_access.XEN_RANGE_END:
            raise InstructionFault(13) from None
        raise EmulatedPageFault(fault.address, 0 if outward else PF_WRITE) from None
