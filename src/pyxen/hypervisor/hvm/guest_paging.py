"""The guest's own page tables, walked as its processor walks them (Intel SDM volume 3, chapter 4): none, 32-bit, PAE, four levels.

For accesses that the hypervisor makes on behalf of a guest kernel: user and NX bits don't matter, RW bits do if CR0.WP is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.p2m import PhysicalMap
    from pyxen.hypervisor.vcpu import Vcpu

CR0_WP, CR0_PG = 1 << 16, 1 << 31
CR4_PSE, CR4_PAE = 1 << 4, 1 << 5
EFER_LMA = 1 << 10
PRESENT, RW, LARGE = 1, 2, 0x80
ADDRESS = 0x000F_FFFF_FFFF_F000

#: Shift of each level's index, from the root.
_FOUR_LEVELS = (39, 30, 21, 12)
_PAE_LEVELS = (30, 21, 12)
_TWO_LEVELS = (22, 12)


def machine_address(vcpu: Vcpu, physical_map: PhysicalMap, address: int, *, write: bool) -> int | None:
    """Of the octet at a linear address, None if the access faults or there is no memory."""
    physical = physical_address(vcpu, physical_map, address, write=write)
    return None if physical is None else physical_map.machine_address(physical, write=write)


def physical_address(vcpu: Vcpu, physical_map: PhysicalMap, address: int, *, write: bool) -> int | None:
    """Guest physical address of a linear one, None if the page tables don't allow the access."""
    state = vcpu.state
    if not state.cr0 & CR0_PG:
        return address & 0xFFFFFFFF
    need = PRESENT | RW if write and state.cr0 & CR0_WP else PRESENT
    if state.efer & EFER_LMA:
        if not -(1 << 47) <= (address if address < 1 << 63 else address - (1 << 64)) < 1 << 47:
            return None
        return _walk(vcpu, physical_map, state.cr3 & ADDRESS, _FOUR_LEVELS, address, need)
    address &= 0xFFFFFFFF
    if state.cr4 & CR4_PAE:
        return _walk(vcpu, physical_map, state.cr3 & 0xFFFFFFE0, _PAE_LEVELS, address, need)
    return _walk_short(vcpu, physical_map, address, need)


def _walk(vcpu: Vcpu, physical_map: PhysicalMap, table: int, shifts: tuple[int, ...], address: int, need: int) -> int | None:
    """Tables of 64-bit entries."""
    words = vcpu.words
    for shift in shifts:
        where = physical_map.machine_address(table + ((address >> shift & 0x1FF) << 3), write=False)
        if where is None:
            return None
        entry = words[where >> 3]
        is_pdpt = len(shifts) == 3 and shift == 30  # whose entries have no rights of their own
        if entry & (PRESENT if is_pdpt else need) != (PRESENT if is_pdpt else need):
            return None
        if shift == 12 or (entry & LARGE and shift < 39 and not is_pdpt):
            page = (1 << shift) - 1
            return entry & ADDRESS & ~page | address & page
        table = entry & ADDRESS
    return None


def _walk_short(vcpu: Vcpu, physical_map: PhysicalMap, address: int, need: int) -> int | None:
    """Tables of 32-bit entries."""
    table = vcpu.state.cr3 & 0xFFFFF000
    for shift in _TWO_LEVELS:
        where = physical_map.machine_address(table + ((address >> shift & 0x3FF) << 2), write=False)
        if where is None:
            return None
        entry = int.from_bytes(vcpu.octets[where : where + 4], "little")
        if entry & need != need:
            return None
        if shift == 12:
            return entry & 0xFFFFF000 | address & 0xFFF
        if entry & LARGE and vcpu.state.cr4 & CR4_PSE:
            return (entry >> 13 & 0xFF) << 32 | entry & 0xFFC00000 | address & 0x3FFFFF
        table = entry & 0xFFFFF000
    return None
