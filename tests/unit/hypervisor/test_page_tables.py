"""Direct paging: what may stand in a page table, what a table refers to, and what happens when it stops being one."""

from __future__ import annotations

import errno

import pytest

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1, L2, L3, L4, SEGMENT_DESCRIPTORS, WRITABLE
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import (
    ACCESSED,
    DIRTY,
    FIRST_XEN_SLOT,
    LAST_XEN_SLOT,
    M2P_SLOT,
    NX,
    PER_DOMAIN_SLOT,
    PRESENT,
    RW,
    USER,
)
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import BASE, LEAF_FLAGS, TABLE_FLAGS, SmallDomain

LEVELS = (L1, L2, L3, L4)


def pin(guest: SmallDomain, mfn: int, level: int) -> int:
    """-> 0 or the errno."""
    with guest.hypervisor.lock:
        try:
            guest.frames.pin(mfn, guest.domid, level)
        except HypercallError as refusal:
            return refusal.errno
    return 0


def unpin(guest: SmallDomain, mfn: int) -> None:
    with guest.hypervisor.lock:
        guest.frames.unpin(mfn, guest.domid)


def write(guest: SmallDomain, table: int, slot: int, entry: int, **options: bool) -> int:
    with guest.hypervisor.lock:
        try:
            assert guest.hypervisor.page_tables.write_entry(guest.domain, (table << 12) + 8 * slot, entry, **options)
        except HypercallError as refusal:
            return refusal.errno
    return 0


@pytest.fixture
def tables(guest: SmallDomain) -> list[int]:
    """Empty frames that nothing maps."""
    return [guest.free_page() for _ in range(6)]


@pytest.mark.parametrize("level", LEVELS)
def test_an_empty_table_of_each_level(guest: SmallDomain, tables: list[int], level: int) -> None:
    assert not pin(guest, tables[0], level)
    assert guest.count(tables[0]) == (2, 1)
    unpin(guest, tables[0])
    assert guest.count(tables[0]) == (1, 0)


def test_a_tree_holds_what_it_refers_to(guest: SmallDomain, tables: list[int]) -> None:
    l4, l3, l2, l1, page, extra = tables
    words = guest.words
    words[l4 << 9 | 1], words[l4 << 9 | 300] = (l3 << 12 | TABLE_FLAGS,) * 2
    words[l3 << 9 | 2] = l2 << 12 | TABLE_FLAGS
    words[l2 << 9 | 3] = l1 << 12 | TABLE_FLAGS
    words[l1 << 9 | 4], words[l1 << 9 | 5] = page << 12 | LEAF_FLAGS, page << 12 | LEAF_FLAGS & ~RW
    words[l1 << 9 | 6] = extra << 12 | 0xFFE  # not present: means nothing
    assert not pin(guest, l4, L4)
    assert [guest.count(mfn) for mfn in tables] == [(2, 1), (3, 2), (2, 1), (2, 1), (3, 1), (1, 0)]
    assert [guest.frames.type[mfn] for mfn in tables[:5]] == [L4, L3, L2, L1, WRITABLE]
    invariants.check(guest.hypervisor)
    unpin(guest, l4)
    assert [guest.count(mfn) for mfn in tables] == [(1, 0)] * 6


@pytest.mark.parametrize("level", LEVELS[1:])
@pytest.mark.parametrize("good", [0, 5])
def test_one_bad_entry_and_nothing_is_held(guest: SmallDomain, tables: list[int], level: int, good: int) -> None:
    table, below = tables[:2]
    for slot in range(good):
        guest.words[table << 9 | slot] = below << 12 | TABLE_FLAGS
    guest.words[table << 9 | 511] = guest.l4 << 12 | TABLE_FLAGS
    assert pin(guest, table, level)
    assert guest.count(below) == (1, 0) and guest.count(table) == (1, 0)
    guest.words[table << 9 | 511] = 0
    assert not pin(guest, table, level)
    assert guest.count(below) == (1 + good, good)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("bits", [1 << 3, 1 << 4, 1 << 7])
def test_cache_bits_and_superpages_are_refused(guest: SmallDomain, tables: list[int], level: int, bits: int) -> None:
    table, target = tables[:2]
    guest.words[table << 9] = target << 12 | PRESENT | bits
    assert pin(guest, table, level) == errno.EINVAL
    guest.words[table << 9] = 0
    assert not pin(guest, table, level)
    assert write(guest, table, 0, target << 12 | PRESENT | bits) == errno.EINVAL
    assert not write(guest, table, 0, target << 12 | PRESENT)
    assert write(guest, table, 0, target << 12 | PRESENT | bits) == errno.EINVAL, "not even when the target stays"
    assert guest.count(target) == (2, level != L1)


def test_bits_that_are_the_guests(guest: SmallDomain, tables: list[int]) -> None:
    table, target = tables[:2]
    assert not pin(guest, table, L1)
    for bits in (NX, USER, ACCESSED | DIRTY, 7 << 9, 1 << 52, 1 << 58, 1 << 8):
        assert not write(guest, table, 0, target << 12 | PRESENT | bits)
        assert guest.words[table << 9] == target << 12 | PRESENT | USER | bits
    assert write(guest, table, 0, target << 12 | PRESENT | 1 << 62) == errno.EINVAL, "the mark of a grant mapping is Xen's"
    assert not write(guest, table, 0, 1 << 62), "not present: means nothing"


@pytest.mark.parametrize("level", LEVELS)
def test_a_table_is_never_writable(guest: SmallDomain, tables: list[int], level: int) -> None:
    table, other = tables[:2]
    assert not pin(guest, table, level)
    slot = guest.usable
    assert write(guest, guest.l1, slot, table << 12 | LEAF_FLAGS) == errno.EBUSY
    assert not write(guest, guest.l1, slot, table << 12 | LEAF_FLAGS & ~RW)
    assert write(guest, guest.l1, slot, table << 12 | LEAF_FLAGS) == errno.EBUSY, "nor by making a mapping writable"
    guest.words[other << 9] = table << 12 | LEAF_FLAGS
    assert pin(guest, other, L1) == errno.EBUSY
    guest.words[other << 9] = 0
    unpin(guest, table)
    assert not write(guest, guest.l1, slot, table << 12 | LEAF_FLAGS)
    assert pin(guest, table, level) == errno.EINVAL, "what is mapped writable becomes no table"
    assert not write(guest, guest.l1, slot, 0)
    assert not pin(guest, table, level)


def test_an_l1_that_maps_itself(guest: SmallDomain, tables: list[int]) -> None:
    table = tables[0]
    guest.words[table << 9] = table << 12 | LEAF_FLAGS
    assert pin(guest, table, L1) == errno.EBUSY
    assert guest.count(table) == (1, 0)
    guest.words[table << 9] = table << 12 | LEAF_FLAGS & ~RW
    assert not pin(guest, table, L1)
    assert guest.count(table) == (3, 1)


def test_wrong_levels(guest: SmallDomain, tables: list[int]) -> None:
    table = tables[0]
    assert not pin(guest, table, L2)
    for level, target in ((L4, guest.l2), (L3, guest.l1), (L3, guest.l3), (L2, guest.l2), (L4, guest.l4), (L2, guest.mfns[0])):
        guest.words[tables[1] << 9] = target << 12 | TABLE_FLAGS
        assert pin(guest, tables[1], level) == errno.EINVAL, (level, hex(target))
    guest.words[tables[1] << 9] = 0


def test_frames_of_others(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    table = guest.free_page()
    assert not pin(guest, table, L1)
    for mfn in (other.mfns[0], other.domain.shared_info >> 12, machine.gdt_frame, 0):
        assert write(guest, table, 0, mfn << 12 | PRESENT) == errno.EBUSY
    for mfn, number in ((machine.memory.total_frames, errno.EPERM), ((1 << 40) - 2, errno.EPERM), ((1 << 40) - 1, errno.EINVAL)):
        assert write(guest, table, 0, mfn << 12 | PRESENT) == number
    assert pin(guest, other.l4, L4) == errno.EINVAL
    unpin(guest, table)
    for mfn, number in ((other.mfns[0], errno.EBUSY), (machine.memory.total_frames, errno.EPERM)):
        machine.memory.words[table << 9 | 100] = mfn << 12 | PRESENT
        assert pin(guest, table, L1) == number
    machine.memory.words[table << 9 | 100] = 0


def test_its_own_page_of_xens(guest: SmallDomain, tables: list[int]) -> None:
    """The shared info page may be mapped writable, and never be a table."""
    shared = guest.domain.shared_info >> 12
    assert not write(guest, guest.l1, guest.usable, shared << 12 | LEAF_FLAGS)
    assert not write(guest, guest.l1, guest.usable, 0)
    for level in (*LEVELS, SEGMENT_DESCRIPTORS):
        assert pin(guest, shared, level) == errno.EINVAL
    assert guest.count(shared) == (1, 1)


def test_xens_slots(guest: SmallDomain, tables: list[int]) -> None:
    l4, l3 = tables[:2]
    for slot in range(FIRST_XEN_SLOT, LAST_XEN_SLOT + 1):
        guest.words[l4 << 9 | slot] = l3 << 12 | TABLE_FLAGS
        assert write(guest, guest.l4, slot, l3 << 12 | TABLE_FLAGS) == errno.EINVAL
        assert write(guest, guest.l4, slot, 0) == errno.EINVAL
    assert not pin(guest, l4, L4)
    assert guest.count(l3) == (1, 0), "what the guest had there is gone"
    for slot in range(FIRST_XEN_SLOT, LAST_XEN_SLOT + 1):
        assert bool(guest.words[l4 << 9 | slot]) == (slot in (M2P_SLOT, PER_DOMAIN_SLOT))
    unpin(guest, l4)
    assert not any(guest.words[(l4 << 9) + FIRST_XEN_SLOT : (l4 << 9) + LAST_XEN_SLOT + 1]), "a page of the guest again: nothing of Xen's"
    assert not write(guest, guest.l4, FIRST_XEN_SLOT - 1, l3 << 12 | TABLE_FLAGS)
    assert not write(guest, guest.l4, LAST_XEN_SLOT + 1, l3 << 12 | TABLE_FLAGS)


def test_replacing_an_entry(guest: SmallDomain, tables: list[int]) -> None:
    table, a, b = tables[:3]
    assert not pin(guest, table, L1)
    steps = (
        (a << 12 | LEAF_FLAGS, (2, 1), (1, 0)),
        (a << 12 | LEAF_FLAGS | NX, (2, 1), (1, 0)),
        (a << 12 | LEAF_FLAGS & ~RW, (2, 0), (1, 0)),
        (b << 12 | LEAF_FLAGS, (1, 0), (2, 1)),
        (b << 12 | LEAF_FLAGS & ~PRESENT, (1, 0), (1, 0)),
        (b << 12 | LEAF_FLAGS, (1, 0), (2, 1)),
        (0, (1, 0), (1, 0)),
    )
    for entry, of_a, of_b in steps:
        assert not write(guest, table, 7, entry)
        assert guest.words[table << 9 | 7] == entry
        assert (guest.count(a), guest.count(b)) == (of_a, of_b)
    assert not write(guest, table, 7, a << 12 | LEAF_FLAGS)
    assert write(guest, table, 7, guest.l1 << 12 | LEAF_FLAGS) == errno.EBUSY
    assert guest.words[table << 9 | 7] == a << 12 | LEAF_FLAGS and guest.count(a) == (2, 1), "refused: the old entry stays"


@pytest.mark.parametrize("vcpus", [1, 2])
def test_accessed_and_dirty_bits(machine: Hypervisor, vcpus: int) -> None:
    guest = SmallDomain(machine, vcpus=vcpus)
    mfn, slot = guest.mfns[3], 3
    assert not write(guest, guest.l1, slot, mfn << 12 | PRESENT | RW)
    guest.words[guest.l1 << 9 | slot] |= ACCESSED | DIRTY  # as the CPU does
    assert not write(guest, guest.l1, slot, mfn << 12 | PRESENT, preserve_accessed=True)
    assert guest.words[guest.l1 << 9 | slot] == mfn << 12 | PRESENT | USER | ACCESSED | DIRTY
    assert not write(guest, guest.l1, slot, mfn << 12 | PRESENT)
    assert guest.words[guest.l1 << 9 | slot] == mfn << 12 | PRESENT | USER


@pytest.mark.parametrize("expecting", [False, True])
@pytest.mark.parametrize("target_stays", [False, True])
def test_a_dirty_bit_set_at_the_same_time(
    machine: Hypervisor, monkeypatch: pytest.MonkeyPatch, expecting: bool, target_stays: bool
) -> None:
    """Another vCPU sets the bit between the look and the replacement."""
    guest = SmallDomain(machine, vcpus=2)
    old, slot = guest.mfns[3] << 12 | PRESENT | RW | USER, 3
    new = guest.mfns[3 if target_stays else 4] << 12 | PRESENT | USER | RW
    assert not write(guest, guest.l1, slot, old)
    address = (guest.l1 << 12) + 8 * slot
    real, calls = machine.engine.compare_exchange, []

    def raced(machine_address: int, expected: int, value: int) -> bool:
        if not calls:
            guest.words[address >> 3] |= DIRTY
        calls.append(expected)
        return real(machine_address, expected, value)

    monkeypatch.setattr(machine.engine, "compare_exchange", raced)
    with machine.lock:
        done = machine.page_tables.write_entry(
            guest.domain, address, new, preserve_accessed=not expecting, expected=old if expecting else None
        )
    assert done is not expecting
    assert guest.words[address >> 3] == (old if expecting else new) | DIRTY
    assert calls == [old] if expecting else [old, old | DIRTY]
    monkeypatch.undo()
    invariants.check(machine)


def test_not_what_was_expected(guest: SmallDomain) -> None:
    with guest.hypervisor.lock:
        assert not guest.hypervisor.page_tables.write_entry(guest.domain, guest.l1 << 12, 0, expected=12345)
    assert guest.words[guest.l1 << 9] & PRESENT


def test_stale_translations(machine: Hypervisor) -> None:
    """A page that was writable becomes a table only when no TLB can hold the writable translation."""
    guest = SmallDomain(machine, vcpus=2)
    one, other = guest.domain.vcpus
    with machine.lock:
        one.request_flush()
        other.request_flush()
    mfn = guest.free_page()  # unmapped without a flush
    with machine.lock:
        one.request_flush()
    before = one.flush_clock, other.flush_clock
    assert not pin(guest, mfn, L1)
    assert one.flush_clock == before[0], "flushed since: not again"
    assert other.flush_clock > before[1]


def test_finding_the_entry_of_an_address(guest: SmallDomain) -> None:
    page_tables = guest.hypervisor.page_tables
    root = guest.vcpu.kernel_root
    assert page_tables.l1_entry_address(root, BASE + 5 * 4096 + 123) == (guest.l1 << 12) + 40
    for nowhere in (0, BASE + (1 << 21), BASE + (1 << 30), BASE + (1 << 39), 0xFFFF_8000_0000_0000, 0xFFFF_87FF_FFFF_FFFF):
        assert page_tables.l1_entry_address(root, nowhere) is None


@pytest.mark.parametrize("level", (L2, L3, L4))
def test_a_table_may_name_itself_for_reading_only(guest: SmallDomain, tables: list[int], level: int) -> None:
    """Linear page tables: the entry takes no reference, so nothing is left when the table goes."""
    table = tables[0]
    reading = table << 12 | PRESENT | USER | ACCESSED
    guest.words[table << 9 | 7] = reading | RW
    assert pin(guest, table, level) == errno.EINVAL
    guest.words[table << 9 | 7] = reading
    assert pin(guest, table, level) == 0
    assert write(guest, table, 8, reading) == 0
    assert write(guest, table, 8, reading | RW) == errno.EINVAL
    assert write(guest, table, 9, reading | RW) == errno.EINVAL
    assert write(guest, table, 8, 0) == 0
    invariants.check(guest.hypervisor)
    unpin(guest, table)
    invariants.check(guest.hypervisor)
    assert not guest.frames.type_count[table]


@pytest.mark.parametrize("level", (L2, L3, L4))
def test_a_table_may_name_another_of_its_level_for_reading(guest: SmallDomain, tables: list[int], level: int) -> None:
    """One that is validated already. A table that is named names none, so there are no chains and no rings."""
    first, second, third, plain = tables[:4]
    reading = PRESENT | USER | ACCESSED
    assert pin(guest, first, level) == 0
    guest.words[second << 9] = first << 12 | reading | RW
    assert pin(guest, second, level) == errno.EINVAL
    guest.words[second << 9] = first << 12 | reading
    assert pin(guest, second, level) == 0
    assert guest.count(first) == (3, 2)
    assert write(guest, second, 1, first << 12 | reading) == 0
    assert write(guest, second, 1, first << 12 | reading | RW) == errno.EINVAL
    assert write(guest, second, 1, first << 12 | reading | DIRTY) == 0
    assert write(guest, second, 2, second << 12 | reading) == 0, "itself, beside"
    assert write(guest, first, 0, second << 12 | reading) == errno.EINVAL, "a ring"
    guest.words[third << 9] = second << 12 | reading
    assert pin(guest, third, level) == errno.EINVAL, "a chain"
    guest.words[third << 9] = 0
    assert pin(guest, third, level) == 0
    assert write(guest, first, 0, third << 12 | reading) == errno.EINVAL, "a chain at its other end"
    invariants.check(guest.hypervisor)
    assert write(guest, second, 1, 0) == 0
    unpin(guest, first)
    assert guest.count(first) == (2, 1)
    unpin(guest, second)
    assert guest.count(first) == (1, 0)
    assert pin(guest, first, level) == 0
    assert write(guest, first, 0, third << 12 | reading) == 0, "nothing is left of the counts"
    assert write(guest, first, 1, plain << 12 | reading) == 0, "a page that is no table of any level yet becomes one of the level below"
    assert write(guest, first, 0, 0) == 0 and write(guest, first, 1, 0) == 0
    unpin(guest, first)
    unpin(guest, third)
    invariants.check(guest.hypervisor)
