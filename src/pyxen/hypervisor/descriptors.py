"""Segment descriptors of PV guests: the GDT and LDT that the guest supplies, checked; and the selectors Xen gives.

The guest's GDT frames appear in its per-domain area below Xen's own page (FIRST_RESERVED_GDT_PAGE); descriptor pages are never writable
to the guest, so a checked descriptor stays as it was checked. The LDT is mapped page by page when it is first used.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from pyxen.engine.interface import Dirty
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import SEGMENT_DESCRIPTORS
from pyxen.hypervisor.guest_access import is_guest_address
from pyxen.hypervisor.page_tables import ACCESSED, ADDRESS, NX, PRESENT
from pyxen.hypervisor.vcpu import CODE32_ATTRIBUTES, CODE64_ATTRIBUTES, DATA_ATTRIBUTES, FLAT_KERNEL_CS

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

FIRST_RESERVED_PAGE = 14
FIRST_RESERVED_ENTRY = FIRST_RESERVED_PAGE * 512
LAST_GDT_OCTET = (FIRST_RESERVED_PAGE + 1) * 4096 - 1
MAX_LDT_ENTRIES = 8192
CALL_GATE_64 = 0xC  #: a descriptor's type
#: Xen's own entries: what STR and SLDT show (asm/desc.h).
TSS_SELECTOR, LDT_SELECTOR = 0xE040, 0xE050
#: What SIDT shows: a table somewhere in Xen's image.
IDT_BASE, IDT_LIMIT = 0xFFFF_82D0_4060_0000, 0xFFF
PER_DOMAIN_START = 0xFFFF_8200_0000_0000
#: Each vCPU has 16 pages for its GDT, then 16 for its LDT.
PAGES_PER_VCPU = 32
LDT_FIRST_PAGE = 16
LDT_PAGES = PAGES_PER_VCPU - LDT_FIRST_PAGE

_S, _P, _DPL3 = 1 << 12, 1 << 15, 3 << 13
_LONG, _BIG = 1 << 21, 1 << 22
Loaded = tuple[int, int, int]  # base, limit, attributes
NULL_SEGMENT: Loaded = (0, 0, 0)


def xen_descriptor_page() -> list[tuple[int, int]]:
    """(index in the page, descriptor) of the selectors that Xen offers to guests: 0xe023, 0xe02b, 0xe033."""
    return [
        (4, 0x00CFFB000000FFFF),
        (5, 0x00CFF3000000FFFF),
        (6, 0x00AFFB000000FFFF),
    ]


def gdt_base(vcpu: Vcpu) -> int:
    """Linear address of the vCPU's GDT."""
    return PER_DOMAIN_START + vcpu.vcpu_id * PAGES_PER_VCPU * 4096


def ldt_base(vcpu: Vcpu) -> int:
    """Linear address of the vCPU's LDT."""
    return gdt_base(vcpu) + LDT_FIRST_PAGE * 4096


def checked_descriptor(untrusted: int) -> int | None:
    """The descriptor as Xen lets it stand (check_descriptor), or None when it is refused.

    Not-present ones pass. Code and data segments get DPL 3 and their accessed bit; of type 0, the second half of a call gate, which nothing
    can load, only DPL 3. Call gates to the guest's own code stand, with DPL 0, so that every use of one is #GP(selector); the DPL that was
    asked for is kept as the target's RPL. All other system descriptors are refused.
    """
    high = untrusted >> 32
    if not high & _P:
        return untrusted
    high |= _DPL3
    if not high & _S:
        if high & 0xF00 == CALL_GATE_64 << 8:
            return _checked_call_gate(untrusted & 0xFFFFFFFF, high & ~_DPL3)
        return None if high & 0xF00 else untrusted & 0xFFFFFFFF | high << 32
    high |= 1 << 8
    return untrusted & 0xFFFFFFFF | high << 32


def _checked_call_gate(low: int, high: int) -> int | None:
    target = low >> 16
    if target >> 3 >= FIRST_RESERVED_ENTRY and target != FLAT_KERNEL_CS and not target & 4 or high & 0xFF:
        return None
    return low & 0xFFFF | (target | 3) << 16 | high << 32


def validate_page(table: np.ndarray[tuple[int], np.dtype[np.uint64]], mfn: int) -> None:
    """Check every descriptor of a page before it becomes a descriptor page; writes the fixed-up ones back. EINVAL for a bad one."""
    for index in np.flatnonzero(table).tolist():
        checked = checked_descriptor(int(table[index]))
        if checked is None:
            raise HypercallError(errno.EINVAL, f"descriptor {index} of frame {mfn:#x} is of a forbidden type")
        table[index] = checked


def set_gdt(vcpu: Vcpu, frames: list[int], entries: int) -> None:
    """HYPERVISOR_set_gdt: replace the guest part of the GDT. EINVAL for too many entries or frames that can't be descriptor pages."""
    if entries > FIRST_RESERVED_ENTRY or len(frames) != (entries + 511) // 512:
        raise HypercallError(errno.EINVAL, f"a GDT of {entries} entries in {len(frames)} frames")
    table = vcpu.hypervisor.frames
    taken: list[int] = []
    try:
        for mfn in frames:
            table.get_page_and_type(mfn, vcpu.domain.domid, SEGMENT_DESCRIPTORS)
            taken.append(mfn)
    except HypercallError:
        for mfn in taken:
            table.put_page_and_type(mfn)
        raise HypercallError(errno.EINVAL, "a GDT frame is not a valid descriptor page") from None
    release_gdt(vcpu)
    vcpu.gdt_frames, vcpu.gdt_entries = taken, entries
    for page, mfn in enumerate(taken):
        vcpu.domain.map_per_domain(vcpu.vcpu_id * PAGES_PER_VCPU + page, page_entry(mfn))
    vcpu.request_flush()


def release_gdt(vcpu: Vcpu) -> None:
    """Forget the guest's GDT frames."""
    for page, mfn in enumerate(vcpu.gdt_frames):
        vcpu.domain.map_per_domain(vcpu.vcpu_id * PAGES_PER_VCPU + page, page_entry(vcpu.hypervisor.zero_frame))
        vcpu.hypervisor.frames.put_page_and_type(mfn)
    vcpu.gdt_frames, vcpu.gdt_entries = [], 0
    vcpu.forget_segments()
    vcpu.request_flush()


def set_ldt(vcpu: Vcpu, address: int, entries: int) -> None:
    """MMUEXT_SET_LDT. EINVAL for too many entries, and an address that is not page aligned or not the guest's, if there are entries."""
    if entries > MAX_LDT_ENTRIES or (entries and (address & 0xFFF or not is_guest_address(address))):
        raise HypercallError(errno.EINVAL, f"an LDT of {entries} entries at {address:#x}")
    release_ldt(vcpu)
    vcpu.ldt_address, vcpu.ldt_entries = address, entries
    ldt = vcpu.state.ldt
    ldt.base = ldt_base(vcpu) if entries else 0
    ldt.limit = entries * 8 - 1 if entries else 0
    ldt.selector = LDT_SELECTOR if entries else 0
    ldt.attributes = 0x8200 if entries else 0
    vcpu.state.dirty |= Dirty.TABLES


def release_ldt(vcpu: Vcpu) -> None:
    """Unmap the LDT pages that were in use."""
    for page, mfn in vcpu.ldt_frames.items():
        vcpu.domain.map_per_domain(vcpu.vcpu_id * PAGES_PER_VCPU + LDT_FIRST_PAGE + page, 0)
        vcpu.hypervisor.frames.put_page_and_type(mfn)
    if vcpu.ldt_frames:
        vcpu.request_flush()
    vcpu.ldt_frames.clear()
    vcpu.ldt_entries = 0
    vcpu.forget_segments()


def map_ldt_page(vcpu: Vcpu, offset: int) -> bool:
    """A descriptor of the LDT at ``offset`` octets is wanted: map its page. False when the guest has none there, or not a proper one."""
    if offset >= vcpu.ldt_entries * 8:
        return False
    page = offset >> 12
    if page in vcpu.ldt_frames:
        return True
    where = vcpu.hypervisor.page_tables.l1_entry_address(vcpu.kernel_root, vcpu.ldt_address + (page << 12))
    entry = vcpu.words[where >> 3] if where is not None else 0
    if not entry & PRESENT:
        return False
    mfn = (entry & ADDRESS) >> 12
    try:
        vcpu.hypervisor.frames.get_page_and_type(mfn, vcpu.domain.domid, SEGMENT_DESCRIPTORS)
    except HypercallError:
        return False
    vcpu.ldt_frames[page] = mfn
    vcpu.domain.map_per_domain(vcpu.vcpu_id * PAGES_PER_VCPU + LDT_FIRST_PAGE + page, page_entry(mfn))
    return True


def update_descriptor(vcpu: Vcpu, machine: int, untrusted: int) -> None:
    """HYPERVISOR_update_descriptor. EINVAL for a forbidden descriptor, and for somebody else's frame."""
    checked = checked_descriptor(untrusted)
    if checked is None or machine & 7:
        raise HypercallError(errno.EINVAL, f"descriptor {untrusted:#x} is of a forbidden type")
    mfn = machine >> 12
    frames = vcpu.hypervisor.frames
    frames.get(mfn, vcpu.domain.domid)
    try:
        if frames.type_count[mfn] and frames.type[mfn] == SEGMENT_DESCRIPTORS:
            vcpu.words[machine >> 3] = checked
            for other in vcpu.domain.vcpus:
                other.forget_segments()
        else:
            _update_ordinary(vcpu, machine, checked)
    finally:
        frames.put(mfn)


def _update_ordinary(vcpu: Vcpu, machine: int, checked: int) -> None:
    """The frame is no descriptor page now: write it as the guest could itself, under a writable reference."""
    frames = vcpu.hypervisor.frames
    mfn = machine >> 12
    frames.get_type(mfn, 6)
    vcpu.words[machine >> 3] = checked
    vcpu.hypervisor.note_write(mfn)
    frames.put_type(mfn)


def descriptor(vcpu: Vcpu, selector: int) -> int | None:
    """The descriptor a selector names, or None beyond its table."""
    index = selector >> 3
    if selector & 4:
        if index >= vcpu.ldt_entries or not map_ldt_page(vcpu, index * 8):
            return None
        mfn = vcpu.ldt_frames[index >> 9]
    elif index >= FIRST_RESERVED_ENTRY:
        if index > LAST_GDT_OCTET >> 3:
            return None
        mfn = vcpu.hypervisor.gdt_frame
    else:
        if index >> 9 >= len(vcpu.gdt_frames):
            return None
        mfn = vcpu.gdt_frames[index >> 9]
    return vcpu.words[(mfn << 9) + (index & 511)]


def _load(value: int) -> Loaded:
    high = value >> 32
    limit = value & 0xFFFF | high & 0xF0000
    if high >> 23 & 1:
        limit = limit << 12 | 0xFFF
    base = value >> 16 & 0xFFFFFF | high & 0xFF000000
    return base, limit, high & 0x00FFFF00


def code_segment(vcpu: Vcpu, selector: int) -> Loaded | None:
    """What CS loads for a return to guest mode; None when an iret would fault."""
    if selector == 0xE033:
        return 0, 0xFFFFFFFF, CODE64_ATTRIBUTES
    if selector == 0xE023:
        return 0, 0xFFFFFFFF, CODE32_ATTRIBUTES
    return _cached(vcpu, selector, code=True)


def stack_segment(vcpu: Vcpu, selector: int) -> Loaded | None:
    """What SS loads for a return to guest mode; None when an iret would fault. A null selector faults at CPL 3."""
    if selector == 0xE02B:
        return 0, 0xFFFFFFFF, DATA_ATTRIBUTES
    return _cached(vcpu, selector, code=False)


def data_segment(vcpu: Vcpu, selector: int) -> Loaded | None:
    """What DS, ES, FS and GS load in ring 3: data, or code that may be read; None for a null selector and where a load would fault."""
    value = descriptor(vcpu, selector) if selector & 0xFFFC else None
    if value is None:
        return None
    high = value >> 32
    if high & (_S | _P | _DPL3) != _S | _P | _DPL3 or high & (1 << 11 | 1 << 9) == 1 << 11:
        return None
    return _load(value)


def is_loadable(value: int, *, code: bool) -> bool:
    """Whether ring 3 can load a descriptor into CS, or into SS: present, of the kind, of DPL 3 (a conforming one: of any)."""
    high = value >> 32
    if high & (_S | _P) != _S | _P or high & _DPL3 != _DPL3 and not (code and high & 1 << 10):
        return False
    executable = bool(high & 1 << 11)
    if code:
        return executable and high & (_LONG | _BIG) != _LONG | _BIG
    return not executable and bool(high & 1 << 9)


def _cached(vcpu: Vcpu, selector: int, *, code: bool) -> Loaded | None:
    key = selector << 1 | code
    found = vcpu.segment_cache.get(key)
    if found is not None:
        return found
    if selector & 0xFFFC == 0:
        return None
    value = descriptor(vcpu, selector)
    if value is None:
        return None
    if not is_loadable(value, code=code):
        return None
    loaded = _load(value)
    vcpu.segment_cache[key] = loaded
    return loaded


def page_entry(mfn: int) -> int:
    """The entry that maps a descriptor page in the per-domain area.

    Read-only even here: the guest kernel's privilege reaches this area. The accessed bits are set by the checks, so the CPU
    never writes."""
    return mfn << 12 | PRESENT | ACCESSED | NX
