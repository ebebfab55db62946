"""Reading and writing guest memory by the guest's own linear addresses (copy_from_guest, copy_to_guest).

The guest's page tables are walked as the processor would walk them for Xen: a page must be present, and writable for a write; user and
NX bits do not matter. Those of HVM guests hold guest frame numbers (``hvm.guest_paging``). Xen's own address range is never touched on a
guest's behalf. A failed access is a ``GuestFault``, which a hypercall answers with -EFAULT.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from pyxen.abi import compat
from pyxen.hypervisor.page_tables import ADDRESS, PRESENT, RW

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

#: Linear addresses a guest may name: the lower half, and above Xen's range (xen-x86_64.h).
LOWER_HALF_END = 1 << 47
XEN_RANGE_END = 0xFFFF_8800_0000_0000
TOP = 1 << 64
MASK64 = TOP - 1

Layout = TypeVar("Layout", bound=ctypes.Structure)


class GuestFault(Exception):
    """The guest named memory that is not there, not writable, or not its own. ``address`` is linear."""

    def __init__(self, address: int, *, write: bool, present: bool = False) -> None:
        super().__init__(f"{'write to' if write else 'read of'} {address:#x}")
        self.address = address
        self.write = write
        self.present = present


def is_guest_address(address: int) -> bool:
    """Whether a guest may point there: canonical and not in Xen's range."""
    return address < LOWER_HALF_END or XEN_RANGE_END <= address < TOP


def translate(vcpu: Vcpu, address: int, *, write: bool) -> int:
    """Machine address of the octet at linear ``address``. Upper levels' RW bits count, as on hardware."""
    if vcpu.is_hvm:
        machine = vcpu.machine_address(address, write=write)
        if machine is None:
            raise GuestFault(address, write=write)
        return machine
    if LOWER_HALF_END <= address < XEN_RANGE_END or address >= TOP:
        raise GuestFault(address, write=write)
    words = vcpu.words
    need = PRESENT | RW if write else PRESENT
    entry: int = words[(vcpu.state.cr3 + ((address >> 36) & 0xFF8)) >> 3]
    rights: int = entry
    if entry & PRESENT:
        entry = words[((entry & ADDRESS) + ((address >> 27) & 0xFF8)) >> 3]
        rights &= entry
        if entry & PRESENT:
            entry = words[((entry & ADDRESS) + ((address >> 18) & 0xFF8)) >> 3]
            rights &= entry
            if entry & PRESENT:
                entry = words[((entry & ADDRESS) + ((address >> 9) & 0xFF8)) >> 3]
                if rights & entry & need == need:
                    return int(entry & ADDRESS) + (address & 0xFFF)
    raise GuestFault(address, write=write, present=bool(entry & PRESENT))


def read(vcpu: Vcpu, address: int, size: int) -> bytes:
    """``size`` octets from linear ``address``."""
    octets = vcpu.octets
    machine = translate(vcpu, address, write=False)
    room = 4096 - (address & 0xFFF)
    if size <= room:
        return bytes(octets[machine : machine + size])
    parts = [octets[machine : machine + room]]
    done = room
    while done < size:
        machine = translate(vcpu, address + done, write=False)
        step = min(size - done, 4096)
        parts.append(octets[machine : machine + step])
        done += step
    return b"".join(parts)


def write(vcpu: Vcpu, address: int, data: bytes | bytearray | memoryview) -> None:
    """Put ``data`` at linear ``address``. Pages before a bad one are written, as by hardware."""
    done, size = 0, len(data)
    while done < size:
        machine = translate(vcpu, address + done, write=True)
        step = min(size - done, 4096 - (machine & 0xFFF))
        vcpu.octets[machine : machine + step] = data[done : done + step]
        vcpu.hypervisor.note_write(machine >> 12)
        done += step


@contextmanager
def _kernel_space(vcpu: Vcpu) -> Iterator[None]:
    """The guest kernel's address space, whatever mode the vCPU is in; of an HVM guest, whose modes are its own, the current one."""
    if vcpu.is_hvm:
        yield
        return
    current, vcpu.state.cr3 = vcpu.state.cr3, vcpu.kernel_root
    try:
        yield
    finally:
        vcpu.state.cr3 = current


def write_kernel(vcpu: Vcpu, address: int, data: bytes) -> None:
    """``write`` by an address of the guest kernel."""
    with _kernel_space(vcpu):
        write(vcpu, address, data)


def read_kernel(vcpu: Vcpu, address: int, size: int) -> bytes:
    """``read`` by an address of the guest kernel."""
    with _kernel_space(vcpu):
        return read(vcpu, address, size)


def read_word(vcpu: Vcpu, address: int) -> int:
    """One 64-bit word."""
    if address & 7:
        return int.from_bytes(read(vcpu, address, 8), "little")
    return vcpu.words[translate(vcpu, address, write=False) >> 3]


def write_word(vcpu: Vcpu, address: int, value: int) -> None:
    """One 64-bit word."""
    if address & 7:
        write(vcpu, address, value.to_bytes(8, "little"))
        return
    machine = translate(vcpu, address, write=True)
    vcpu.words[machine >> 3] = value
    vcpu.hypervisor.note_write(machine >> 12)


# -- what hypercalls name by address: of 32-bit callers in their own layout -------------------------------------------------------


def read_structure(vcpu: Vcpu, address: int, layout: type[Layout]) -> Layout:
    """A copy of the structure at ``address``: what it holds cannot change any more under the checks."""
    if vcpu.narrow_caller:
        form: compat.Translation[Layout] = compat.translation(layout)
        return form.widen(read(vcpu, address, form.size))
    return layout.from_buffer_copy(read(vcpu, address, ctypes.sizeof(layout)))


def write_structure(vcpu: Vcpu, address: int, value: ctypes.Structure) -> None:
    """Copy a structure out."""
    write(vcpu, address, compat.translation(type(value)).shorten(value) if vcpu.narrow_caller else bytes(value))


def write_member(vcpu: Vcpu, address: int, value: ctypes.Structure, name: str) -> None:
    """Copy one integer of the structure at ``address`` out: the rest of it stays the guest's."""
    layout = type(value)
    member = getattr(compat.narrow_type(layout) if vcpu.narrow_caller else layout, name)
    write(vcpu, address + member.offset, (getattr(value, name) & MASK64).to_bytes(8, "little")[: member.size])


def size_of(vcpu: Vcpu, layout: type[ctypes.Structure]) -> int:
    """Octets of a structure, for lists of them."""
    return compat.translation(layout).size if vcpu.narrow_caller else ctypes.sizeof(layout)


def long_size(vcpu: Vcpu) -> int:
    """Octets of an unsigned long, a frame number or a pointer (``guest_long``)."""
    return compat.LONG if vcpu.narrow_caller else 8


def read_long(vcpu: Vcpu, array: int, index: int = 0) -> int:
    """Element of an array of unsigned longs."""
    if vcpu.narrow_caller:
        return int.from_bytes(read(vcpu, array + compat.LONG * index, compat.LONG), "little")
    return read_word(vcpu, array + 8 * index)


def write_long(vcpu: Vcpu, array: int, value: int, index: int = 0) -> None:
    """Element of an array of unsigned longs. What does not fit a 32-bit caller's is cut off."""
    if vcpu.narrow_caller:
        write(vcpu, array + compat.LONG * index, (value & 0xFFFFFFFF).to_bytes(compat.LONG, "little"))
    else:
        write_word(vcpu, array + 8 * index, value)
