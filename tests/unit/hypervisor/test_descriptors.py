from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.abi.xen import HYPERVISOR_set_gdt, HYPERVISOR_update_descriptor
from pyxen.hypervisor import descriptors
from pyxen.hypervisor.descriptors import PAGES_PER_VCPU, checked_descriptor
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1, SEGMENT_DESCRIPTORS
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import RW
from tests.unit.hypervisor.machine import BASE, LEAF_FLAGS, SmallDomain

#: Present, DPL 0.
CODE64, CODE32, DATA, CONFORMING = 0x00AF9A000000FFFF, 0x00CF9A000000FFFF, 0x00CF92000000FFFF, 0x00AF9E000000FFFF
DPL3, ACCESSED, PRESENT_BIT = 3 << 45, 1 << 40, 1 << 47


@pytest.mark.parametrize("value", [CODE64, CODE32, DATA, CONFORMING, DATA | 1 << 45])
def test_segments_become_user_segments(value: int) -> None:
    assert checked_descriptor(value) == value | DPL3 | ACCESSED


@pytest.mark.parametrize("value", [0, CODE64 & ~PRESENT_BIT, 0x0000_0900_0000_0067, 0x7FFF_7FFF_FFFF_FFFF])
def test_what_is_not_present_is_harmless(value: int) -> None:
    assert checked_descriptor(value & ~PRESENT_BIT) == value & ~PRESENT_BIT


@pytest.mark.parametrize("kind", [kind for kind in range(1, 16) if kind != 12])
def test_system_segments_and_gates_are_refused(kind: int) -> None:
    assert checked_descriptor(PRESENT_BIT | kind << 40 | 0x0000_00E0_3300_1000) is None


@pytest.mark.parametrize("target", [0x8, 0x1000, 0xDFF8, 0xE033, 0xE00C, 0xFFFF])
def test_call_gates_stand_but_nobody_may_use_them(target: int) -> None:
    """Any target in the guest's part of the GDT, in its LDT, or the kernel's flat code. The DPL becomes 0."""
    gate = PRESENT_BIT | 12 << 40 | 0x1234 << 48 | target << 16 | 0x5678
    assert checked_descriptor(gate | 1 << 45) == gate | 3 << 16
    assert checked_descriptor(gate | 1 << 32) is None, "the low octet, reserved"


@pytest.mark.parametrize("target", [0xE000, 0xE008, 0xE023, 0xE02B, 0xE030, 0xFFF8])
def test_call_gates_to_code_of_xens_are_refused(target: int) -> None:
    assert checked_descriptor(PRESENT_BIT | 12 << 40 | target << 16) is None


def test_type_0_is_harmless() -> None:
    """The upper half of a 16-byte descriptor."""
    assert checked_descriptor(PRESENT_BIT | 0x12345678) == PRESENT_BIT | DPL3 | 0x12345678


def test_code_that_is_both_64_and_32_bits() -> None:
    """It stands, but can't be loaded."""
    both = CODE64 | 1 << 54
    assert checked_descriptor(both) == both | DPL3 | ACCESSED
    assert not descriptors.is_loadable(both | DPL3 | ACCESSED, code=True)


@given(st.integers(0, (1 << 64) - 1))
def test_what_passes_is_safe_and_stays(value: int) -> None:
    checked = checked_descriptor(value)
    if checked is None or not checked & PRESENT_BIT:
        return
    gate = checked >> 40 & 31 == 12
    assert checked & DPL3 == (0 if gate else DPL3)
    assert checked_descriptor(checked) == checked
    assert checked >> 44 & 1 or gate or not checked >> 40 & 15


def descriptor_page(guest: SmallDomain, *values: int) -> int:
    mfn = guest.free_page()
    for index, value in enumerate(values):
        guest.words[(mfn << 9) + index] = value
    return mfn


def set_gdt(guest: SmallDomain, frames: list[int], entries: int) -> int:
    return guest.call(HYPERVISOR_set_gdt, guest.put(f"{len(frames)}Q", *frames), entries)


def per_domain_entry(guest: SmallDomain, page: int, vcpu_id: int = 0) -> int:
    return guest.words[(guest.domain._per_domain_l1 << 9) + vcpu_id * PAGES_PER_VCPU + page]


def test_gdt(guest: SmallDomain) -> None:
    first, second = descriptor_page(guest, 0, CODE64, DATA), descriptor_page(guest, DATA)
    assert set_gdt(guest, [first, second], 513) == 0
    assert guest.words[(first << 9) + 1] == CODE64 | DPL3 | ACCESSED
    assert [guest.count(mfn) for mfn in (first, second)] == [(2, 1)] * 2
    assert guest.frames.type[first] == SEGMENT_DESCRIPTORS
    for page, mfn in enumerate((first, second)):
        assert per_domain_entry(guest, page) >> 12 & 0xFFFFFFFFFF == mfn and not per_domain_entry(guest, page) & RW
    assert descriptors.descriptor(guest.vcpu, 8) == CODE64 | DPL3 | ACCESSED
    assert descriptors.descriptor(guest.vcpu, 512 * 8) == DATA | DPL3 | ACCESSED
    assert descriptors.descriptor(guest.vcpu, 1024 * 8) is None
    assert descriptors.code_segment(guest.vcpu, 11) is not None and descriptors.stack_segment(guest.vcpu, 19) is not None
    assert descriptors.code_segment(guest.vcpu, 19) is None and descriptors.stack_segment(guest.vcpu, 11) is None
    assert descriptors.stack_segment(guest.vcpu, 3) is None
    assert set_gdt(guest, [], 0) == 0
    assert [guest.count(mfn) for mfn in (first, second)] == [(1, 0)] * 2
    assert per_domain_entry(guest, 0) >> 12 & 0xFFFFFFFFFF == guest.hypervisor.zero_frame
    assert descriptors.code_segment(guest.vcpu, 11) is None, "nothing remembered of the old table"


def test_bad_gdts_leave_the_old_one(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    good, bad = descriptor_page(guest, CODE64), descriptor_page(guest, PRESENT_BIT | 9 << 40)
    assert set_gdt(guest, [good], 512) == 0
    fresh = descriptor_page(guest, CODE64)
    for frames in ([fresh, bad], [fresh, other.mfns[0]], [fresh, guest.mfns[0]], [fresh, guest.l1], [fresh, 1 << 40], [0]):
        assert set_gdt(guest, frames, 512 * len(frames)) == -errno.EINVAL
        assert guest.vcpu.gdt_frames == [good] and guest.count(good) == (2, 1) and guest.count(fresh) == (1, 0)
    assert set_gdt(guest, [fresh] * 15, 15 * 512) == -errno.EINVAL
    assert guest.call(HYPERVISOR_set_gdt, 0x8000, 1) == -errno.EFAULT
    assert set_gdt(guest, [good] * 14, 14 * 512) == 0
    assert guest.count(good) == (15, 14)


def test_each_vcpu_has_its_own(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, vcpus=2)
    page = descriptor_page(guest, CODE64)
    assert guest.call(HYPERVISOR_set_gdt, guest.put("Q", page), 1, vcpu=guest.domain.vcpus[1]) == 0
    assert per_domain_entry(guest, 0, 1) >> 12 & 0xFFFFFFFFFF == page
    assert guest.vcpu.gdt_frames == []


def test_a_descriptor_page_is_not_writable(guest: SmallDomain) -> None:
    page = descriptor_page(guest, CODE64)
    assert set_gdt(guest, [page], 512) == 0
    with guest.hypervisor.lock:
        for write in (
            lambda: guest.hypervisor.page_tables.write_entry(guest.domain, (guest.l1 << 12) + 8 * 200, page << 12 | LEAF_FLAGS),
            lambda: guest.frames.pin(page, guest.domid, L1),
        ):
            with pytest.raises(Exception, match="segment descriptors"):
                write()


def test_update_descriptor(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    page = descriptor_page(guest, CODE64)
    assert set_gdt(guest, [page], 512) == 0

    def update(machine_address: int, value: int) -> int:
        return guest.call(HYPERVISOR_update_descriptor, machine_address, value)

    assert descriptors.code_segment(guest.vcpu, 3) is None
    assert descriptors.code_segment(guest.vcpu, 0x13) is None
    assert update(page << 12 | 16, CODE32) == 0
    assert guest.words[(page << 9) + 2] == CODE32 | DPL3 | ACCESSED
    assert descriptors.code_segment(guest.vcpu, 0x13) == (0, 0xFFFFFFFF, 0x00CFFB00)
    assert update(page << 12 | 16, 0) == 0
    assert descriptors.code_segment(guest.vcpu, 0x13) is None, "no stale copy"
    assert update(page << 12 | 16, PRESENT_BIT | 2 << 40) == -errno.EINVAL
    assert update(page << 12 | 17, CODE32) == -errno.EINVAL
    assert update(guest.mfns[5] << 12, DATA) == 0, "an ordinary page: written as the guest could itself"
    assert guest.words[guest.mfns[5] << 9] == DATA | DPL3 | ACCESSED
    assert update(guest.l1 << 12, DATA) == -errno.EINVAL
    assert update(other.mfns[0] << 12, DATA) < 0 and update((1 << 64) - 8, DATA) < 0


def test_ldt_pages_are_mapped_when_they_are_used(guest: SmallDomain) -> None:
    """The LDT is in ordinary memory of the guest, mapped read-only."""
    pfn, vcpu = 20, guest.vcpu
    page_tables = guest.hypervisor.page_tables
    guest.write(guest.at(pfn), struct.pack("<3Q", 0, CODE64, DATA))
    with guest.hypervisor.lock:
        descriptors.set_ldt(vcpu, guest.at(pfn), 600)
        assert not descriptors.map_ldt_page(vcpu, 8), "the page is writable to the guest"
        page_tables.write_entry(guest.domain, (guest.l1 << 12) + 8 * pfn, guest.mfns[pfn] << 12 | LEAF_FLAGS & ~RW)
        assert descriptors.map_ldt_page(vcpu, 8)
        assert guest.count(guest.mfns[pfn]) == (3, 1)
        assert descriptors.code_segment(vcpu, 8 | 7) is not None
        assert not descriptors.map_ldt_page(vcpu, 4096), "the second page is writable to the guest"
        assert not descriptors.map_ldt_page(vcpu, 600 * 8)
        descriptors.set_ldt(vcpu, 0, 0)
        assert guest.count(guest.mfns[pfn]) == (2, 0)
        assert descriptors.code_segment(vcpu, 8 | 7) is None
        descriptors.set_ldt(vcpu, BASE - 4096, 8192)
        assert not descriptors.map_ldt_page(vcpu, 0), "nothing is mapped there"
        descriptors.set_ldt(vcpu, 1, 0)
        for bad in (1 << 63, 0xFFFF_8000_0000_0000, BASE + 8):
            with pytest.raises(HypercallError):
                descriptors.set_ldt(vcpu, bad, 1)
