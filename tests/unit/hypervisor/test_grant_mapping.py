"""Mapping and unmapping of grants between domains: what is counted, marked, refused, and what happens when one side dies."""

from __future__ import annotations

import errno

import pytest

from pyxen.abi import grant_table as abi
from pyxen.abi.xen import MMUEXT_UNPIN_TABLE, HYPERVISOR_grant_table_op, HYPERVISOR_memory_op, HYPERVISOR_mmu_update, HYPERVISOR_mmuext_op
from pyxen.hypervisor.frame_table import L1, WRITABLE
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import ACCESSED, DIRTY, GRANTED, NX, PRESENT, RW, USER
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GRANTED_PAGE, WINDOW, GrantGuest

REF = 20
HOST, READ_ONLY, DEVICE, BY_PTE = abi.GNTMAP_host_map, abi.GNTMAP_readonly, abi.GNTMAP_device_map, abi.GNTMAP_contains_pte
READING, WRITING = abi.GTF_reading, abi.GTF_reading | abi.GTF_writing


@pytest.fixture
def granter(machine: Hypervisor) -> GrantGuest:
    return GrantGuest(machine)


@pytest.fixture
def mapper(machine: Hypervisor, granter: GrantGuest) -> GrantGuest:
    return GrantGuest(machine)


@pytest.fixture(params=[1, 2])
def version(request: pytest.FixtureRequest, granter: GrantGuest) -> int:
    assert granter.set_version(request.param) == 0
    return int(request.param)


def test_writable_mapping(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest, version: int) -> None:
    mfn = granter.grant(REF, mapper.domid)
    before = granter.count(mfn)
    old = mapper.mfns[WINDOW]
    op = mapper.map(granter.domid, REF)
    assert (op.status, op.dev_bus_addr) == (abi.GNTST_okay, mfn << 12)
    assert mapper.pte(WINDOW) == mfn << 12 | PRESENT | RW | USER | NX | GRANTED
    assert granter.count(mfn) == (before[0] + 1, before[1] + 1)
    assert mapper.count(old) == (1, 0), "what the address mapped before is given up"
    assert granter.marks(REF) == WRITING
    mapper.poke(WINDOW, b"hello")
    assert granter.read(granter.at(GRANTED_PAGE), 5) == b"hello"
    invariants.check(machine, guests_write=False)
    assert mapper.unmap(op.handle) == abi.GNTST_okay
    assert mapper.pte(WINDOW) == 0
    assert granter.count(mfn) == before
    assert granter.marks(REF) == 0
    assert mapper.unmap(op.handle) == abi.GNTST_bad_handle


def test_read_only_mapping(granter: GrantGuest, mapper: GrantGuest, version: int) -> None:
    mfn = granter.grant(REF, mapper.domid, flags=abi.GTF_permit_access | abi.GTF_readonly)
    assert mapper.map(granter.domid, REF).status == abi.GNTST_general_error
    assert granter.marks(REF) == 0
    op = mapper.map(granter.domid, REF, flags=HOST | READ_ONLY)
    assert op.status == abi.GNTST_okay
    assert not mapper.pte(WINDOW) & RW and granter.marks(REF) == READING
    with pytest.raises(GuestFault):
        mapper.poke(WINDOW, b"x")
    assert granter.count(mfn) == (3, 1)
    assert mapper.unmap(op.handle) == abi.GNTST_okay


def test_marks_follow_the_last_mapping_of_each_kind(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest, version: int) -> None:
    granter.grant(REF, mapper.domid)
    reader = mapper.map(granter.domid, REF, WINDOW, HOST | READ_ONLY)
    assert granter.marks(REF) == READING
    writers = [mapper.map(granter.domid, REF, WINDOW + 1 + number) for number in range(2)]
    assert granter.marks(REF) == WRITING
    assert mapper.unmap(writers[0].handle, WINDOW + 1) == 0
    assert granter.marks(REF) == WRITING
    assert mapper.unmap(writers[1].handle, WINDOW + 2) == 0
    assert granter.marks(REF) == READING
    invariants.check(machine, guests_write=False)
    assert mapper.unmap(reader.handle) == 0
    assert granter.marks(REF) == 0 and not granter.domain.grant_table.active


def test_a_revoked_entry_stays_what_it_was(granter: GrantGuest, mapper: GrantGuest, version: int) -> None:
    mfn = granter.grant(REF, mapper.domid)
    first = mapper.map(granter.domid, REF)
    granter.set_entry(REF, 0, granter.mfns[11])
    second = mapper.map(granter.domid, REF, WINDOW + 1, HOST | READ_ONLY)
    assert second.status == abi.GNTST_okay and mapper.mapped_frame(WINDOW + 1) == mfn, (
        "in use: the first frame, whatever the entry says now"
    )
    assert mapper.unmap(first.handle) == 0
    assert mapper.unmap(second.handle, WINDOW + 1) == 0
    assert mapper.map(granter.domid, REF).status == abi.GNTST_general_error, "not in use any more: the entry counts"


@pytest.mark.parametrize(
    ("flags", "domid", "frame", "status"),
    [
        (abi.GTF_invalid, 0, 0, abi.GNTST_general_error),
        (abi.GTF_accept_transfer, 0, 0, abi.GNTST_general_error),
        (abi.GTF_permit_access | abi.GTF_sub_page, 0, 0, abi.GNTST_general_error),
        (abi.GTF_permit_access, 1, 0, abi.GNTST_general_error),
        (abi.GTF_permit_access, 0, 0xFFFFFFF, abi.GNTST_bad_page),
        (abi.GTF_permit_access, 0, 0x7FFFFFFF, abi.GNTST_bad_page),
    ],
)
def test_entries_that_grant_nothing(
    granter: GrantGuest, mapper: GrantGuest, version: int, flags: int, domid: int, frame: int, status: int
) -> None:
    granter.set_entry(REF, flags | mapper.domid + domid << 16, frame or granter.mfns[GRANTED_PAGE])
    op = mapper.map(granter.domid, REF)
    assert op.status == status
    assert granter.marks(REF) == flags & READING and mapper.mapped_frame(WINDOW) == mapper.mfns[WINDOW]
    assert not len(mapper.domain.maptrack)


def test_frames_that_cannot_be_granted(granter: GrantGuest, mapper: GrantGuest) -> None:
    for mfn in (mapper.mfns[3], 1, granter.hypervisor.gdt_frame):
        granter.grant(REF, mapper.domid, mfn=mfn)
        assert mapper.map(granter.domid, REF).status == abi.GNTST_bad_page
    granter.grant(REF, mapper.domid, mfn=granter.l1)
    assert mapper.map(granter.domid, REF).status == abi.GNTST_general_error, "a page table is not mapped writable"
    op = mapper.map(granter.domid, REF, flags=HOST | READ_ONLY)
    assert op.status == abi.GNTST_okay
    assert mapper.unmap(op.handle) == 0


def test_a_writable_mapping_keeps_the_frame_from_being_a_table(granter: GrantGuest, mapper: GrantGuest) -> None:
    page = granter.free_page()
    granter.grant(REF, mapper.domid, mfn=page)
    op = mapper.map(granter.domid, REF)
    pin = granter.put("IIQQ", 0, 0, page, 0)
    assert granter.call(HYPERVISOR_mmuext_op, pin, 1, 0, 0x7FF0) == -errno.EINVAL
    assert mapper.unmap(op.handle) == 0
    pin = granter.put("IIQQ", 0, 0, page, 0)
    assert granter.call(HYPERVISOR_mmuext_op, pin, 1, 0, 0x7FF0) == 0


def test_bad_operations(granter: GrantGuest, mapper: GrantGuest) -> None:
    granter.grant(REF, mapper.domid)
    for flags in (0, READ_ONLY, abi.GNTMAP_application_map):
        assert mapper.map(granter.domid, REF, flags=flags).status == abi.GNTST_bad_gntref
    for domid in (77, 0x7FF0, 0xFFFF):
        assert mapper.map(domid, REF).status == abi.GNTST_bad_domain
    for reference in (512, 0xFFFFFFFF):
        assert mapper.map(granter.domid, reference).status == abi.GNTST_bad_gntref
    assert mapper.map(0, REF).status == abi.GNTST_general_error
    for address in (0, 1 << 47, 0xFFFF8000_00000000, 0xFFFF8800_00000000, mapper.at(512)):
        assert mapper.map(granter.domid, REF, address=address).status == abi.GNTST_general_error
    for address in (
        1 << 51,
        mapper.pte_address(WINDOW) + 4,
        mapper.mfns[5] << 12,
        granter.pte_address(5),
        mapper.l4 << 12,
        mapper.l2 << 12,
    ):
        assert mapper.map(granter.domid, REF, flags=HOST | BY_PTE, address=address).status == abi.GNTST_general_error
    assert granter.marks(REF) == 0 and not granter.domain.grant_table.active
    assert mapper.unmap(0) == abi.GNTST_bad_handle
    assert mapper.unmap(0xFFFFFFFF) == abi.GNTST_bad_handle


def test_by_entry_address_with_guest_bits(granter: GrantGuest, mapper: GrantGuest) -> None:
    granter.grant(REF, mapper.domid)
    where = mapper.pte_address(WINDOW)
    op = mapper.map(granter.domid, REF, flags=HOST | BY_PTE | abi.GNTMAP_application_map | 5 << 16, address=where)
    assert op.status == 0
    assert mapper.pte(WINDOW) >> 9 & 7 == 5
    assert mapper.unmap(op.handle, address=mapper.pte_address(WINDOW + 1)) == abi.GNTST_general_error
    assert mapper.unmap(op.handle, address=where + 4) == abi.GNTST_general_error
    assert mapper.unmap(op.handle, address=where) == 0
    assert mapper.pte(WINDOW) == 0


def test_device_mappings(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    mfn = granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF, flags=DEVICE)
    assert op.status == 0 and granter.count(mfn) == (3, 2) and mapper.mapped_frame(WINDOW) == mapper.mfns[WINDOW]
    invariants.check(machine, guests_write=False)
    assert mapper.unmap(op.handle, address=0, device=(mfn << 12) + 1) == abi.GNTST_bad_dev_addr
    assert mapper.unmap(op.handle, address=0) == 0, "neither address: nothing happens"
    assert mapper.unmap(op.handle, address=0, device=mfn << 12) == 0
    assert granter.count(mfn) == (2, 1)
    op = mapper.map(granter.domid, REF, flags=DEVICE | HOST)
    assert granter.count(mfn) == (4, 3)
    assert mapper.unmap(op.handle) == 0
    assert granter.count(mfn) == (3, 2) and granter.marks(REF) == WRITING
    invariants.check(machine, guests_write=False)
    assert mapper.unmap(op.handle, address=0, device=mfn << 12) == 0
    assert granter.count(mfn) == (2, 1) and granter.marks(REF) == 0


def test_wrong_address_on_unmap(granter: GrantGuest, mapper: GrantGuest) -> None:
    granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    assert mapper.unmap(op.handle, WINDOW + 1) == abi.GNTST_general_error
    assert mapper.unmap(op.handle, address=1 << 47) == abi.GNTST_general_error
    assert mapper.unmap(op.handle) == 0


def test_unmap_and_replace(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    mfn = granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    other = mapper.mfns[WINDOW + 1]
    replace = abi.gnttab_unmap_and_replace(handle=op.handle, host_addr=mapper.at(WINDOW), new_addr=mapper.at(WINDOW + 1))
    assert mapper.op(abi.GNTTABOP_unmap_and_replace, replace) == 0
    assert replace.status == 0
    assert mapper.mapped_frame(WINDOW) == other and mapper.pte(WINDOW + 1) == 0
    assert granter.count(mfn) == (2, 1) and mapper.count(other) == (2, 1)
    assert mapper.op(abi.GNTTABOP_unmap_and_replace, replace) == 0
    assert replace.status == abi.GNTST_bad_handle
    op = mapper.map(granter.domid, REF)
    replace = abi.gnttab_unmap_and_replace(handle=op.handle, host_addr=mapper.at(WINDOW + 3), new_addr=mapper.at(WINDOW + 2))
    assert mapper.op(abi.GNTTABOP_unmap_and_replace, replace) == 0
    assert replace.status == abi.GNTST_general_error
    assert mapper.pte(WINDOW + 2) == 0, "as on Xen the stolen mapping is lost"
    invariants.check(machine)


def test_own_grants(machine: Hypervisor, granter: GrantGuest) -> None:
    mfn = granter.grant(REF, granter.domid)
    op = granter.map(granter.domid, REF)
    assert op.status == 0 and granter.mapped_frame(WINDOW) == mfn and granter.count(mfn) == (3, 2)
    invariants.check(machine, guests_write=False)
    assert granter.unmap(op.handle) == 0
    granter.map(granter.domid, REF)  # left to the destruction


def test_flags_of_a_grant_entry_may_change_but_not_its_frame(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    mfn = granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    entry = mapper.pte(WINDOW)
    assert mapper.write_pte(WINDOW, entry | ACCESSED | DIRTY) == 0
    assert mapper.write_pte(WINDOW, entry & ~GRANTED) == 0
    assert mapper.pte(WINDOW) & GRANTED, "the mark stays"
    assert mapper.write_pte(WINDOW, entry & ~RW) == -errno.EINVAL
    assert mapper.write_pte(WINDOW, entry & ~RW & ~GRANTED) == -errno.EBUSY
    assert mapper.write_pte(WINDOW + 1, mfn << 12 | PRESENT) == -errno.EBUSY
    assert mapper.write_pte(WINDOW + 1, mapper.mfns[5] << 12 | PRESENT | GRANTED) == -errno.EINVAL
    assert mapper.unmap(op.handle) == 0


@pytest.mark.parametrize("vcpus", [1, 2])
def test_implicit_unmap(machine: Hypervisor, vcpus: int) -> None:
    """An entry that goes by other means gives its references back, flushed; the handle stays, and is good for nothing."""
    granter, mapper = GrantGuest(machine), GrantGuest(machine, vcpus=vcpus)
    mfn = granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    clocks = [vcpu.flush_clock for vcpu in mapper.domain.vcpus]
    assert mapper.write_pte(WINDOW, 0) == 0
    assert granter.count(mfn) == (2, 1)
    assert all(vcpu.flush_clock > clock for vcpu, clock in zip(mapper.domain.vcpus, clocks, strict=True))
    assert mapper.unmap(op.handle) == abi.GNTST_general_error
    assert granter.marks(REF) == WRITING
    invariants.check(machine, guests_write=False)
    mapper.destroy()
    assert granter.marks(REF) == 0


def test_unmap_flushes_all_vcpus_before_the_frame_is_free(machine: Hypervisor, granter: GrantGuest) -> None:
    mapper = GrantGuest(machine, vcpus=2)
    mfn = granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    freed: list[tuple[int, ...]] = []
    release, memory = machine.memory.release, machine.memory

    def watched(frames) -> None:  # type: ignore[no-untyped-def]
        if mfn in frames:
            freed.append(tuple(vcpu.flush_clock for vcpu in mapper.domain.vcpus))
        release(frames)

    memory.release = watched  # type: ignore[method-assign]
    granter.write_pte(GRANTED_PAGE, 0)
    granter.put("QQIIHxxxxxx", granter.at(0, 64), 1, 0, 0, 0x7FF0)
    granter.put("Q", mfn, at=granter.at(0, 64))
    assert granter.call(HYPERVISOR_memory_op, 1, granter.at(0)) == 1
    assert not freed and memory.owner[mfn] == granter.domid, "mapped elsewhere: it stays"
    clocks = tuple(vcpu.flush_clock for vcpu in mapper.domain.vcpus)
    assert mapper.unmap(op.handle) == 0
    assert len(freed) == 1 and all(new > old for new, old in zip(freed[0], clocks, strict=True))


def test_a_table_that_goes_gives_grants_back(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    mfn = granter.grant(REF, mapper.domid)
    table = mapper.free_page()
    pin = mapper.put("IIQQ", 0, 0, table, 0)
    assert mapper.call(HYPERVISOR_mmuext_op, pin, 1, 0, 0x7FF0) == 0
    op = mapper.map(granter.domid, REF, flags=HOST | BY_PTE, address=table << 12)
    assert op.status == 0 and granter.count(mfn) == (3, 2)
    unpin = mapper.put("IIQQ", MMUEXT_UNPIN_TABLE, 0, table, 0)
    assert mapper.call(HYPERVISOR_mmuext_op, unpin, 1, 0, 0x7FF0) == 0
    assert granter.count(mfn) == (2, 1)
    assert mapper.unmap(op.handle, address=table << 12) == abi.GNTST_general_error
    pin = mapper.put("IIQQ", 0, 0, table, 0)
    assert mapper.call(HYPERVISOR_mmuext_op, pin, 1, 0, 0x7FF0) == -errno.EINVAL, "the entry is not valid for the guest itself"
    assert machine.frames.type_count[table] == 0
    update = mapper.put("QQ", table << 12, 0)
    assert mapper.call(HYPERVISOR_mmu_update, update, 1, 0, 0x7FF0) == 0


def test_granter_dies_first(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    mfn = granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    free = machine.memory.free_frames
    granter.destroy()
    assert machine.memory.free_frames > free + 50, "what nobody holds is free at once"
    info = machine.dom0.domain_info(granter.domid)
    assert info.dying and info.total_pages == 1
    assert machine.memory.owner[mfn] == granter.domid and machine.frames.type[mfn] == WRITABLE
    mapper.poke(WINDOW, b"still here")
    assert mapper.map(granter.domid, REF, WINDOW + 1).status == abi.GNTST_bad_gntref
    invariants.check(machine)
    assert mapper.unmap(op.handle) == 0
    assert all(other.domid != granter.domid for other in machine.dom0.list_domains())
    assert machine.memory.owner[mfn] not in (granter.domid, mapper.domid)


def test_mapper_dies_first(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    mfn = granter.grant(REF, mapper.domid)
    for number in range(3):
        assert mapper.map(granter.domid, REF, WINDOW + number, HOST | (DEVICE if number else READ_ONLY)).status == 0
    assert granter.count(mfn) == (7, 5)
    mapper.destroy()
    assert granter.count(mfn) == (2, 1) and granter.marks(REF) == 0
    assert not granter.domain.grant_table.foreign


def test_both_die_holding_each_other(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    granter.grant(REF, mapper.domid)
    mapper.grant(REF, granter.domid)
    mapper.map(granter.domid, REF)
    granter.map(mapper.domid, REF)
    granter.destroy()
    assert len(machine.dom0.list_domains()) == 3
    mapper.destroy()
    assert len(machine.dom0.list_domains()) == 1


def test_handle_of_a_domain_that_is_gone(machine: Hypervisor, granter: GrantGuest, mapper: GrantGuest) -> None:
    granter.grant(REF, mapper.domid)
    op = mapper.map(granter.domid, REF)
    mapper.write_pte(WINDOW, 0)
    granter.destroy()
    assert mapper.unmap(op.handle) == abi.GNTST_bad_handle
    assert mapper.domain.is_shut_down and "gone" in mapper.domain.crash_cause


def test_maptrack_limit_and_reuse(machine: Hypervisor, granter: GrantGuest) -> None:
    mapper = GrantGuest(machine, max_maptrack_frames=1)
    for reference in range(REF, REF + 3):
        granter.grant(reference, mapper.domid)
    handles = []
    while True:
        op = mapper.map(granter.domid, REF + len(handles) // 100, flags=DEVICE)
        if op.status:
            break
        handles.append(op.handle)
    assert op.status == abi.GNTST_no_space
    assert handles == list(range(255)), "one of 256 stays free"
    assert mapper.unmap(handles[7], address=0, device=op.dev_bus_addr or granter.mfns[GRANTED_PAGE] << 12) == 0
    assert mapper.map(granter.domid, REF, flags=DEVICE).status == 0
    nothing = GrantGuest(machine, max_maptrack_frames=0)
    granter.grant(REF + 3, nothing.domid)
    assert nothing.map(granter.domid, REF + 3).status == abi.GNTST_no_space


def test_too_many_mappings_of_one_grant(granter: GrantGuest, mapper: GrantGuest) -> None:
    granter.grant(REF, mapper.domid)
    for _ in range(128):
        assert mapper.map(granter.domid, REF, flags=DEVICE).status == 0
    assert mapper.map(granter.domid, REF, flags=DEVICE).status == abi.GNTST_general_error
    assert mapper.map(granter.domid, REF, flags=DEVICE | READ_ONLY).status == 0
    assert mapper.map(granter.domid, REF).status == 0


def test_lists(granter: GrantGuest, mapper: GrantGuest) -> None:
    for reference in range(8, 20):
        granter.grant(reference, mapper.domid, pfn=reference)
    maps = [
        abi.gnttab_map_grant_ref(dom=granter.domid, ref=reference, flags=HOST, host_addr=mapper.at(WINDOW + reference - 8))
        for reference in range(8, 21)
    ]
    assert mapper.op(abi.GNTTABOP_map_grant_ref, *maps) == 0
    assert [op.status for op in maps] == [0] * 12 + [abi.GNTST_general_error]
    unmaps = [abi.gnttab_unmap_grant_ref(handle=op.handle, host_addr=op.host_addr) for op in (*maps[:12], maps[0])]
    assert mapper.op(abi.GNTTABOP_unmap_grant_ref, *unmaps) == 0
    assert [op.status for op in unmaps] == [0] * 12 + [abi.GNTST_bad_handle]
    assert mapper.op(abi.GNTTABOP_map_grant_ref, count=0) == 0
    assert mapper.op(abi.GNTTABOP_map_grant_ref, count=1 << 31) == -errno.EINVAL
    assert mapper.op(abi.GNTTABOP_map_grant_ref | 1 << 12, count=1) == -errno.EINVAL
    assert mapper.op(abi.GNTTABOP_dump_table, count=1) == -errno.ENOSYS
    assert mapper.op(99, count=1) == -errno.ENOSYS


def test_list_that_ends_in_nothing(granter: GrantGuest, mapper: GrantGuest) -> None:
    """-EFAULT at the element that can't be read; those before it are done, and flushed."""
    granter.grant(REF, mapper.domid)
    assert mapper.write_pte(5, 0) == 0
    op = abi.gnttab_map_grant_ref(dom=granter.domid, ref=REF, flags=HOST, host_addr=mapper.at(WINDOW))
    address = mapper.write(mapper.at(5) - 32, bytes(op))
    assert mapper.call(HYPERVISOR_grant_table_op, abi.GNTTABOP_map_grant_ref, address, 2) == -errno.EFAULT
    assert mapper.mapped_frame(WINDOW) == granter.mfns[GRANTED_PAGE]
    handle = abi.gnttab_map_grant_ref.from_buffer_copy(mapper.read(address, 32)).handle
    address = mapper.write(mapper.at(5) - 24, bytes(abi.gnttab_unmap_grant_ref(handle=handle, host_addr=mapper.at(WINDOW))))
    assert mapper.call(HYPERVISOR_grant_table_op, abi.GNTTABOP_unmap_grant_ref, address, 2) == -errno.EFAULT
    assert mapper.mapped_frame(WINDOW) == 0 and granter.marks(REF) == 0


def test_long_lists_give_way(machine: Hypervisor, granter: GrantGuest) -> None:
    big = GrantGuest(machine, pages=100)
    ops = [abi.gnttab_swap_grant_ref(ref_a=number % 500, ref_b=1 << 20) for number in range(1200)]
    assert big.op(abi.GNTTABOP_swap_grant_ref, *ops) == 0
    assert {op.status for op in ops} == {abi.GNTST_bad_gntref}
    assert machine.frames.type[granter.l1] == L1
