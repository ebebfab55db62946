"""Ballooning: what a domain gives back and gets, how far a call came, and that nothing is gained by tricks."""

from __future__ import annotations

import errno
import struct

import pytest

from pyxen.abi import memory as abi
from pyxen.abi import xen
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.preemption import BUDGET
from tests.unit.hypervisor.machine import BASE, MASK64, PAGE, SmallDomain

SELF = 0x7FF0
INCREASE, DECREASE, POPULATE = abi.XENMEM_increase_reservation, abi.XENMEM_decrease_reservation, abi.XENMEM_populate_physmap


def reserve(guest: SmallDomain, command: int, extents: list[int], *, order: int = 0, domid: int = SELF, count: int | None = None) -> int:
    where = guest.write(guest.at(8), struct.pack(f"<{len(extents)}Q", *extents))
    guest.put("QQIIHxxxxxx", where, len(extents) if count is None else count, order, 0, domid)
    return guest.call(xen.HYPERVISOR_memory_op, command, guest.at(0))


def extents(guest: SmallDomain, count: int) -> list[int]:
    return list(guest.get(f"{count}Q", at=guest.at(8)))


def pages(guest: SmallDomain) -> int:
    return guest.dom0.domain_info(guest.domid).total_pages


def test_give_and_take(guest: SmallDomain) -> None:
    free, before = guest.hypervisor.memory.free_frames, pages(guest)
    given = [guest.free_page() for _ in range(5)]
    guest.hypervisor.memory.words[given[0] << 9] = 0xFEED
    assert reserve(guest, DECREASE, given) == 5
    assert pages(guest) == before - 5 and guest.hypervisor.memory.free_frames == free + 5
    assert reserve(guest, POPULATE, [30, 31, 32]) == 3
    got = extents(guest, 3)
    assert [guest.hypervisor.m2p[mfn] for mfn in got] == [30, 31, 32]
    assert not any(guest.hypervisor.memory.tables[mfn].any() for mfn in got), "nothing of former owners"
    assert reserve(guest, INCREASE, [0, 0]) == 2
    assert len({*got, *extents(guest, 2)}) == 5
    assert pages(guest) == before


def test_not_beyond_the_maximum(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, max_pages=66)
    assert reserve(guest, POPULATE, [100, 101, 102, 103]) == 2
    assert extents(guest, 4)[2:] == [102, 103]
    assert reserve(guest, INCREASE, [0]) == 0
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_current_reservation, guest.put("H", SELF)) == 66
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_maximum_reservation, guest.put("H", SELF)) == 66


def test_what_is_still_mapped_still_counts(machine: Hypervisor) -> None:
    """Else a guest could hold all the memory of the machine: give back, keep mapped, get more."""
    guest = SmallDomain(machine, max_pages=64)
    mapped = guest.mfns[10]
    assert reserve(guest, DECREASE, [mapped]) == 1
    assert pages(guest) == 64
    assert reserve(guest, POPULATE, [100]) == 0
    assert reserve(guest, DECREASE, [mapped]) == 0, "it is no part of the reservation any more"
    with machine.lock:
        machine.page_tables.write_entry(guest.domain, (guest.l1 << 12) + 80, 0)
    assert pages(guest) == 63
    assert reserve(guest, POPULATE, [100]) == 1


def test_what_can_not_be_given(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    before = pages(guest)
    for bad in (other.mfns[0], 0, machine.gdt_frame, machine.memory.total_frames, MASK64, guest.domain.shared_info >> 12):
        good = guest.free_page()
        assert reserve(guest, DECREASE, [good, bad, good]) == 1
        before -= 1
        assert pages(guest) == before


def test_a_pinned_table_can_be_given_and_lives_until_unpinned(guest: SmallDomain) -> None:
    table = guest.free_page()
    with guest.hypervisor.lock:
        guest.frames.pin(table, guest.domid, 1)
    assert reserve(guest, DECREASE, [table]) == 1
    free = guest.hypervisor.memory.free_frames
    with guest.hypervisor.lock:
        guest.frames.unpin(table, guest.domid)
    assert guest.hypervisor.memory.free_frames == free + 1


def test_contiguous_extents(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, max_pages=4000)
    before = pages(guest)
    assert reserve(guest, POPULATE, [512, MASK64 - 3], order=9) == 2
    first = extents(guest, 2)[0]
    assert list(machine.m2p[first : first + 512]) == list(range(512, 1024))
    assert pages(guest) == before + 1024
    assert reserve(guest, DECREASE, [first], order=9) == 1
    assert pages(guest) == before + 512
    assert reserve(guest, POPULATE, [1], order=10) == 0
    assert pages(guest) == before + 512


def test_no_contiguous_memory(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, max_pages=1 << 20)
    with machine.lock:
        hole = machine.memory.allocate(0x7FF2, machine.memory.free_frames)
        machine.memory.release(hole[::2])
    free, before = machine.memory.free_frames, pages(guest)
    assert reserve(guest, POPULATE, [100], order=1) == 0
    assert (machine.memory.free_frames, pages(guest)) == (free, before)
    with machine.lock:
        machine.memory.release(hole[1::2])


@pytest.mark.parametrize("command", [INCREASE, DECREASE, POPULATE])
def test_how_far_it_came(machine: Hypervisor, command: int) -> None:
    """An answer is a count of extents, also for arguments that can't be read; only another domain is an error."""
    guest, other = SmallDomain(machine, max_pages=4096), SmallDomain(machine)
    assert guest.call(xen.HYPERVISOR_memory_op, command, 0x8000) == 0
    assert reserve(guest, command, [], domid=77) == 0
    for domid in (other.domid, 0):
        assert reserve(guest, command, [1], domid=domid) == -errno.EPERM
    assert reserve(guest, command, [], count=1 << 26) == 0, "more than a continuation could count"
    assert reserve(guest, command, [], count=MASK64) == 0
    for start in (1, 1 << 40):
        guest.put("QQIIHxxxxxx", guest.at(8), 1, 0, 0, SELF)
        assert guest.call(xen.HYPERVISOR_memory_op, command | start << 6, guest.at(0)) == start
    # A list that ends in unmapped memory, in the second page of it.
    last = len(guest.mfns) - 5
    in_list = (BASE + (last + 1) * PAGE - guest.at(last, PAGE - 24)) // 8
    values = [guest.free_page() for _ in range(in_list)] if command == DECREASE else [7] * in_list
    guest.write(guest.at(last - in_list if command == DECREASE else last, PAGE - 24), struct.pack(f"<{in_list}Q", *values))
    where = guest.at(last - in_list if command == DECREASE else last, PAGE - 24)
    with machine.lock:
        machine.page_tables.write_entry(guest.domain, (guest.l1 << 12) + 8 * ((where - BASE >> 12) + 1), 0)
    guest.put("QQIIHxxxxxx", where, 10, 0, 0, SELF)
    assert guest.call(xen.HYPERVISOR_memory_op, command, guest.at(0)) == in_list


def test_long_lists_are_done_in_parts(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, max_pages=4096)
    count = 2 * BUDGET + 100
    before = pages(guest)
    assert reserve(guest, POPULATE, list(range(1000, 1000 + count))) == count
    got = extents(guest, count)
    assert len(set(got)) == count and [machine.m2p[mfn] for mfn in got] == list(range(1000, 1000 + count))
    assert reserve(guest, DECREASE, got) == count
    assert pages(guest) == before


def test_increase_without_a_list(guest: SmallDomain) -> None:
    before = pages(guest)
    guest.put("QQIIHxxxxxx", 0, 3, 0, 0, SELF)
    assert guest.call(xen.HYPERVISOR_memory_op, INCREASE, guest.at(0)) == 3
    assert pages(guest) == before + 3


def test_the_machine(guest: SmallDomain) -> None:
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_maximum_ram_page, 0) == guest.hypervisor.memory.total_frames - 1
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_machphys_mapping, guest.at(0)) == 0
    assert guest.get("3Q") == (0xFFFF_8000_0000_0000, 0xFFFF_8040_0000_0000, 0x7FFFFFFFF)
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_memory_map, guest.at(0)) == -errno.ENOSYS
    assert guest.call(xen.HYPERVISOR_memory_op, 63, guest.at(0)) == -errno.ENOSYS
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_current_reservation, guest.put("H", 0)) == -errno.EPERM
    assert guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_current_reservation, guest.put("H", 77)) == -errno.ESRCH
