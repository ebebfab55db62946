"""The grant table itself: size, versions, status frames, swap, copy, transfer, cache flush, and Domain 0's use of grants."""

from __future__ import annotations

import errno
import struct

import pytest

from pyxen.abi import grant_table as abi
from pyxen.abi.xen import HYPERVISOR_grant_table_op
from pyxen.hypervisor.dom0_interface import DOMID_SELF, GrantCopy, HypercallError
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GRANTED_PAGE, WINDOW, GrantGuest
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain

REF = 20
ACCESS, READ_ONLY = abi.GTF_permit_access, abi.GTF_readonly
SOURCE_REF, DEST_REF = abi.GNTCOPY_source_gref, abi.GNTCOPY_dest_gref
WRITING = abi.GTF_reading | abi.GTF_writing


@pytest.fixture
def granter(machine: Hypervisor) -> GrantGuest:
    return GrantGuest(machine, max_grant_frames=4)


@pytest.fixture
def other(machine: Hypervisor, granter: GrantGuest) -> GrantGuest:
    return GrantGuest(machine)


# -- size and version -----------------------------------------------------------------------------------------------------


def test_size(granter: GrantGuest, other: GrantGuest) -> None:
    frame_list = granter.at(2)
    for frames, status in ((2, 0), (0, 0), (4, 0), (5, abi.GNTST_general_error), (1 << 31, abi.GNTST_general_error)):
        op = abi.gnttab_setup_table(dom=DOMID_SELF, nr_frames=frames, frame_list=frame_list)
        assert granter.op(abi.GNTTABOP_setup_table, op) == 0
        assert op.status == status
    assert struct.unpack("<4Q", granter.read(frame_list, 32)) == tuple(granter.table)
    size = abi.gnttab_query_size(dom=granter.domid)
    assert granter.op(abi.GNTTABOP_query_size, size) == 0
    assert (size.nr_frames, size.max_nr_frames, size.status) == (4, 4, 0)
    for domid, status in ((other.domid, abi.GNTST_permission_denied), (0, abi.GNTST_permission_denied), (77, abi.GNTST_bad_domain)):
        for op in (
            abi.gnttab_setup_table(dom=domid, nr_frames=1),
            abi.gnttab_query_size(dom=domid),
            abi.gnttab_get_status_frames(dom=domid),
        ):
            commands = {
                abi.gnttab_setup_table: abi.GNTTABOP_setup_table,
                abi.gnttab_query_size: abi.GNTTABOP_query_size,
                abi.gnttab_get_status_frames: abi.GNTTABOP_get_status_frames,
            }
            assert granter.op(commands[type(op)], op) == 0
            assert op.status == status
    for command in (abi.GNTTABOP_setup_table, abi.GNTTABOP_query_size, abi.GNTTABOP_get_status_frames):
        for count in (0, 2):
            assert granter.op(command, size, count=count) == -errno.EINVAL
    op = abi.gnttab_setup_table(dom=DOMID_SELF, nr_frames=1, frame_list=granter.at(512))
    assert granter.op(abi.GNTTABOP_setup_table, op) == 0
    assert op.status == abi.GNTST_bad_virt_addr
    assert granter.call(HYPERVISOR_grant_table_op, abi.GNTTABOP_setup_table, granter.at(512), 1) == -errno.EFAULT


def test_versions(machine: Hypervisor, granter: GrantGuest, other: GrantGuest) -> None:
    get = abi.gnttab_get_version(dom=DOMID_SELF)
    set_ = abi.gnttab_set_version(version=3)
    assert granter.op(abi.GNTTABOP_set_version, set_) == -errno.EINVAL
    assert set_.version == 1
    granter.grant(1, 0, pfn=11, flags=ACCESS | READ_ONLY)
    granter.grant(9, other.domid)
    assert machine.dom0.map_grant(granter.domid, 1, writable=False).readonly
    assert granter.set_version(2) == 0
    assert granter.entry(1) == (ACCESS | READ_ONLY, 0, granter.mfns[11]), "reserved entries are kept"
    assert granter.marks(1) == abi.GTF_reading, "with their marks, in the status frames"
    assert granter.entry(9) == (0, 0, 0), "the others are not"
    assert granter.op(abi.GNTTABOP_get_version, get) == 0
    assert get.version == 2
    status = abi.gnttab_get_status_frames(dom=DOMID_SELF, nr_frames=1, frame_list=granter.at(2))
    assert granter.op(abi.GNTTABOP_get_status_frames, status) == 0
    assert status.status == 0
    (status_frame,) = struct.unpack("<Q", granter.read(granter.at(2), 8))
    assert granter.words[status_frame << 9] >> 16 & 0xFFFF == abi.GTF_reading
    status.nr_frames = 2
    assert granter.op(abi.GNTTABOP_get_status_frames, status) == 0
    assert status.status == abi.GNTST_general_error
    # Back to version 1 only when it can say everything and the guest has unmapped the status frames.
    granter.set_entry(2, abi.GTF_transitive, 0)
    assert granter.set_version(1) == -errno.ERANGE
    granter.set_entry(2, ACCESS, 1 << 32)
    assert granter.set_version(1) == -errno.ERANGE
    granter.set_entry(2, abi.GTF_accept_transfer, 5)
    assert granter.write_pte(WINDOW, status_frame << 12 | 0x63) == 0
    assert granter.set_version(1) == -errno.EBUSY
    assert granter.write_pte(WINDOW, 0) == 0
    assert granter.set_version(1) == 0
    assert granter.entry(1) == (ACCESS | READ_ONLY | abi.GTF_reading, 0, granter.mfns[11])
    assert granter.entry(2) == (0, 0, 0)
    assert machine.memory.owner[status_frame] != granter.domid
    machine.dom0.unmap_grant(granter.domid, 1)
    assert granter.marks(1) == 0
    granter.grant(9, other.domid)
    op = other.map(granter.domid, 9)
    assert granter.set_version(2) == -errno.EBUSY
    assert granter.set_version(1) == 0
    assert other.unmap(op.handle) == 0
    assert granter.op(abi.GNTTABOP_get_version, abi.gnttab_get_version(dom=other.domid)) == -errno.EPERM
    assert granter.op(abi.GNTTABOP_get_version, abi.gnttab_get_version(dom=77)) == -errno.ESRCH


def test_version_limit(machine: Hypervisor) -> None:
    assert GrantGuest(machine, max_grant_version=1).set_version(2) == -errno.ENOSYS


def test_status_frames_grow_with_the_table(machine: Hypervisor) -> None:
    guest = GrantGuest(machine, max_grant_frames=20)
    assert guest.set_version(2) == 0
    assert len(guest.domain.grant_table.entries.status_frames) == 1
    op = abi.gnttab_setup_table(dom=DOMID_SELF, nr_frames=17, frame_list=guest.at(2))
    assert guest.op(abi.GNTTABOP_setup_table, op) == 0
    assert len(guest.domain.grant_table.entries.status_frames) == 3
    guest.grant(17 * 256 - 1, guest.domid)
    assert guest.map(guest.domid, 17 * 256).status == abi.GNTST_bad_gntref
    assert guest.map(guest.domid, 17 * 256 - 1).status == 0
    assert guest.marks(17 * 256 - 1) == WRITING


@pytest.mark.parametrize("version", [1, 2])
def test_swap(granter: GrantGuest, other: GrantGuest, version: int) -> None:
    assert granter.set_version(version) == 0
    granter.grant(REF, other.domid, pfn=11)
    granter.grant(REF + 1, 5, pfn=12, flags=ACCESS | READ_ONLY)
    limit = granter.domain.grant_table.entries.count
    swaps = [abi.gnttab_swap_grant_ref(ref_a=a, ref_b=b) for a, b in ((REF, REF + 1), (REF, REF), (REF, limit), (limit, REF))]
    assert granter.op(abi.GNTTABOP_swap_grant_ref, *swaps) == 0
    assert [op.status for op in swaps] == [0, 0, abi.GNTST_bad_gntref, abi.GNTST_bad_gntref]
    assert granter.entry(REF) == (ACCESS | READ_ONLY, 5, granter.mfns[12])
    assert granter.entry(REF + 1) == (ACCESS, other.domid, granter.mfns[11])
    op = other.map(granter.domid, REF + 1)
    swap = abi.gnttab_swap_grant_ref(ref_a=REF, ref_b=REF + 1)
    assert granter.op(abi.GNTTABOP_swap_grant_ref, swap) == 0
    assert swap.status == abi.GNTST_eagain
    assert other.unmap(op.handle) == 0


# -- copy -------------------------------------------------------------------------------------------------------------------


def end(page: int, domid: int, offset: int = 0) -> abi.gnttab_copy_ptr:
    """One end of a copy: ``page`` is a reference or a frame."""
    return abi.gnttab_copy_ptr(u=abi.gnttab_copy_ptr_u(gmfn=page), domid=domid, offset=offset)


def copy(guest: GrantGuest, source: abi.gnttab_copy_ptr, dest: abi.gnttab_copy_ptr, length: int, flags: int) -> int:
    op = abi.gnttab_copy(source=source, dest=dest, len=length, flags=flags)
    assert guest.op(abi.GNTTABOP_copy, op) == 0
    return int(op.status)


@pytest.mark.parametrize("version", [1, 2])
def test_copy_from_and_to_a_grant(machine: Hypervisor, granter: GrantGuest, other: GrantGuest, version: int) -> None:
    assert granter.set_version(version) == 0
    granter.grant(REF, other.domid)
    granter.poke(GRANTED_PAGE, b"0123456789")
    own = other.mfns[WINDOW]
    assert copy(other, end(REF, granter.domid, 2), end(own, DOMID_SELF, 100), 5, SOURCE_REF) == 0
    assert other.read(other.at(WINDOW, 100), 5) == b"23456"
    assert copy(other, end(own, DOMID_SELF, 100), end(REF, granter.domid, 4091), 5, DEST_REF) == 0
    assert granter.read(granter.at(GRANTED_PAGE, 4091), 5) == b"23456"
    granter.grant(REF + 1, other.domid, pfn=11)
    assert copy(other, end(REF, granter.domid), end(REF + 1, granter.domid), 4096, SOURCE_REF | DEST_REF) == 0
    assert granter.read(granter.at(11), 4096) == granter.read(granter.at(GRANTED_PAGE), 4096)
    assert granter.marks(REF) == granter.marks(REF + 1) == 0 and not granter.domain.grant_table.active
    invariants.check(machine)


def test_copy_refused(machine: Hypervisor, granter: GrantGuest, other: GrantGuest) -> None:
    granter.grant(REF, other.domid)
    granter.grant(REF + 1, other.domid, flags=ACCESS | READ_ONLY)
    granter.grant(REF + 2, other.domid, mfn=granter.l1)
    granter.grant(REF + 3, other.domid, mfn=1)
    own, mine, table = other.mfns[WINDOW], end(other.mfns[WINDOW], DOMID_SELF), granter.domid
    both = SOURCE_REF | DEST_REF
    for source, dest, length, flags, status in (
        (end(REF, table), mine, 4097, SOURCE_REF, abi.GNTST_bad_copy_arg),
        (end(REF, table, 4000), mine, 97, SOURCE_REF, abi.GNTST_bad_copy_arg),
        (end(REF, table), end(own, DOMID_SELF, 4095), 2, SOURCE_REF, abi.GNTST_bad_copy_arg),
        (mine, end(REF + 1, table), 1, DEST_REF, abi.GNTST_general_error),
        (mine, end(REF + 2, table), 1, DEST_REF, abi.GNTST_general_error),
        (mine, end(REF + 3, table), 1, DEST_REF, abi.GNTST_bad_page),
        (end(REF + 4, table), mine, 1, SOURCE_REF, abi.GNTST_general_error),
        (end(512, table), mine, 1, SOURCE_REF, abi.GNTST_bad_gntref),
        (end(REF, 77), mine, 1, SOURCE_REF, abi.GNTST_bad_domain),
        (end(REF, 0), mine, 1, SOURCE_REF, abi.GNTST_general_error),
        (end(granter.mfns[10], table), mine, 1, 0, abi.GNTST_permission_denied),
        (end(own, other.domid), mine, 1, 0, abi.GNTST_permission_denied),
        (end(granter.mfns[10], DOMID_SELF), mine, 1, 0, abi.GNTST_bad_page),
        (end(1 << 40, DOMID_SELF), mine, 1, 0, abi.GNTST_bad_page),
        (mine, end(other.l1, DOMID_SELF), 1, 0, abi.GNTST_general_error),
        (end(512, 77), end(512, 77), 0, both, 0),
    ):
        assert copy(other, source, dest, length, flags) == status
    assert copy(other, end(REF + 2, table), mine, 4096, SOURCE_REF) == 0, "a page table may be read"
    assert granter.marks(REF) == granter.marks(REF + 1) == granter.marks(REF + 2) == 0
    assert not granter.domain.grant_table.active
    invariants.check(machine)


def test_copy_of_a_part(granter: GrantGuest, other: GrantGuest) -> None:
    assert granter.set_version(2) == 0
    granter.set_entry(REF, ACCESS | abi.GTF_sub_page | other.domid << 16 | 100 << 32 | 50 << 48, granter.mfns[GRANTED_PAGE])
    mine = end(other.mfns[WINDOW], DOMID_SELF)
    for offset, length, status in ((100, 50, 0), (149, 1, 0), (99, 2, -1), (100, 51, -1), (0, 1, -1), (4000, 97, abi.GNTST_bad_copy_arg)):
        assert copy(other, end(REF, granter.domid, offset), mine, length, SOURCE_REF) == status
    assert other.map(granter.domid, REF).status == abi.GNTST_general_error


def test_transitive_grants(machine: Hypervisor, granter: GrantGuest, other: GrantGuest) -> None:
    """``granter`` grants to ``other``, which hands it on to ``third``."""
    third = GrantGuest(machine)
    assert other.set_version(2) == 0
    granter.grant(REF, other.domid)
    granter.poke(GRANTED_PAGE, b"far away")

    def hand_on(reference: int, domid: int, below: int, flags: int = 0) -> None:
        other.set_entry(reference, abi.GTF_transitive | flags | third.domid << 16 | domid << 32, below)

    mine = end(third.mfns[WINDOW], DOMID_SELF)
    hand_on(30, granter.domid, REF)
    assert copy(third, end(30, other.domid), mine, 8, SOURCE_REF) == 0
    assert third.read(third.at(WINDOW), 8) == b"far away"
    assert copy(third, mine, end(30, other.domid, 8), 8, DEST_REF) == 0
    assert granter.read(granter.at(GRANTED_PAGE), 16) == b"far away" * 2
    assert third.map(other.domid, 30).status == abi.GNTST_general_error
    hand_on(31, granter.domid, REF, READ_ONLY)
    hand_on(32, other.domid, 30)
    hand_on(33, granter.domid, REF + 1)
    hand_on(34, 77, REF)
    for reference in (31, 32, 33, 34):
        assert copy(third, mine, end(reference, other.domid), 8, DEST_REF) == abi.GNTST_general_error
    assert third.set_version(2) == 0
    third.set_entry(30, abi.GTF_transitive | granter.domid << 16 | other.domid << 32, 30)
    theirs = end(granter.mfns[WINDOW], DOMID_SELF)
    assert copy(granter, end(30, third.domid), theirs, 8, SOURCE_REF) == abi.GNTST_general_error, "only one level"
    for guest in (granter, other, third):
        assert not guest.domain.grant_table.active
    assert [other.marks(reference) for reference in range(30, 35)] == [0] * 5 and granter.marks(REF) == 0


def test_copy_while_mapped(granter: GrantGuest, other: GrantGuest) -> None:
    granter.grant(REF, other.domid)
    op = other.map(granter.domid, REF, flags=abi.GNTMAP_host_map | abi.GNTMAP_readonly)
    granter.set_entry(REF, ACCESS | READ_ONLY | other.domid << 16 | abi.GTF_reading, granter.mfns[11])
    mine = end(other.mfns[WINDOW + 1], DOMID_SELF)
    assert copy(other, end(REF, granter.domid), mine, 8, SOURCE_REF) == 0
    assert copy(other, mine, end(REF, granter.domid), 8, DEST_REF) == abi.GNTST_general_error
    assert granter.marks(REF) == abi.GTF_reading
    assert other.unmap(op.handle) == 0


# -- transfer ----------------------------------------------------------------------------------------------------------------


def transfer(guest: GrantGuest, mfn: int, domid: int, reference: int) -> int:
    op = abi.gnttab_transfer(mfn=mfn, domid=domid, ref=reference)
    assert guest.op(abi.GNTTABOP_transfer, op) == 0
    return int(op.status)


@pytest.mark.parametrize("version", [1, 2])
def test_transfer(machine: Hypervisor, granter: GrantGuest, other: GrantGuest, version: int) -> None:
    assert other.set_version(version) == 0
    mfn = granter.free_page()
    granter.words[mfn << 9] = 0x1234
    other.set_entry(REF, abi.GTF_accept_transfer | granter.domid << 16, 0x55)
    pages = granter.domain.total_pages, other.domain.total_pages
    assert transfer(granter, mfn, other.domid, REF) == 0
    done = abi.GTF_accept_transfer | abi.GTF_transfer_committed | abi.GTF_transfer_completed
    assert other.entry(REF) == (done, granter.domid, mfn)
    assert machine.memory.owner[mfn] == other.domid and machine.m2p[mfn] == 0x55
    assert (granter.domain.total_pages, other.domain.total_pages) == (pages[0] - 1, pages[1] + 1)
    assert other.write_pte(WINDOW, mfn << 12 | 0x63) == 0
    assert other.get("Q", other.at(WINDOW)) == (0x1234,)
    assert transfer(granter, mfn, other.domid, REF) == abi.GNTST_bad_page
    invariants.check(machine)


def test_transfer_to_an_hvm_domain(machine: Hypervisor, granter: GrantGuest) -> None:
    """It says where in its physical memory the frame is to be; what can't be there is its own all the same."""
    receiver = SmallHvmDomain(machine)
    table = receiver.domain.grant_table
    for reference, gfn, status in ((8, 0x5000, abi.GNTST_okay), (9, 1 << 30, abi.GNTST_general_error)):
        mfn, pages = granter.free_page(), receiver.domain.total_pages
        granter.words[mfn << 9] = 0x1234
        with machine.lock:
            machine.memory.words[(table.frames[0] << 9) + reference] = gfn << 32 | granter.domid << 16 | abi.GTF_accept_transfer
        assert transfer(granter, mfn, receiver.domid, reference) == status
        assert machine.memory.owner[mfn] == receiver.domid and receiver.domain.total_pages == pages + 1
        done = abi.GTF_accept_transfer | abi.GTF_transfer_committed | abi.GTF_transfer_completed
        assert machine.memory.words[(table.frames[0] << 9) + reference] == gfn << 32 | granter.domid << 16 | done
    assert receiver.get("Q", at=0x5000000) == (0x1234,)
    invariants.check(machine)


def test_transfer_refused(machine: Hypervisor, granter: GrantGuest, other: GrantGuest) -> None:
    for mfn in (granter.mfns[3], granter.l1, other.mfns[3], 1, 1 << 40, granter.table[0]):
        assert transfer(granter, mfn, other.domid, REF) == abi.GNTST_bad_page
    assert machine.memory.owner[granter.mfns[3]] == granter.domid
    entries = {
        REF: abi.GTF_accept_transfer | 77 << 16,
        REF + 1: ACCESS | granter.domid << 16,
        REF + 2: abi.GTF_accept_transfer | abi.GTF_transfer_committed | granter.domid << 16,
    }
    for reference, header in entries.items():
        other.set_entry(reference, header, 0)
    for domid, reference, status in (
        (77, REF, abi.GNTST_bad_domain),
        (0, REF, abi.GNTST_general_error),
        (other.domid, 512, abi.GNTST_general_error),
        *((other.domid, reference, abi.GNTST_general_error) for reference in entries),
    ):
        mfn, pages = granter.free_page(), granter.domain.total_pages
        assert transfer(granter, mfn, domid, reference) == status
        assert granter.domain.total_pages == pages - 1 and machine.memory.owner[mfn] != granter.domid, "the frame is lost all the same"
    other.set_entry(REF, abi.GTF_accept_transfer | granter.domid << 16, 0)
    other.dom0.set_max_memory(other.domid, other.domain.total_pages)
    assert transfer(granter, granter.free_page(), other.domid, REF) == abi.GNTST_general_error
    assert other.entry(REF)[0] == abi.GTF_accept_transfer, "not committed"
    invariants.check(machine)


# -- cache flush -----------------------------------------------------------------------------------------------------------------


def test_cache_flush(granter: GrantGuest, other: GrantGuest) -> None:
    clean, invalidate = abi.GNTTAB_CACHE_CLEAN, abi.GNTTAB_CACHE_INVAL
    mfn = granter.grant(REF, other.domid)

    def flush(address: int, offset: int, length: int, op: int) -> int:
        flushed = abi.gnttab_cache_flush(a=abi.gnttab_cache_flush_a(dev_bus_addr=address), offset=offset, length=length, op=op)
        return other.op(abi.GNTTABOP_cache_flush, flushed)

    own = other.mfns[3] << 12
    assert flush(own, 0, 4096, clean) == flush(own, 4000, 96, clean | invalidate) == flush(own, 0, 0, clean) == flush(1 << 60, 0, 1, 0) == 0
    assert flush(own, 0, 1, invalidate) == -errno.EOPNOTSUPP
    for arguments in ((own, 4096, 0, clean), (own, 4000, 97, clean), (own, 0, 1, 4), (own, 0, 1, abi.GNTTAB_CACHE_SOURCE_GREF)):
        assert flush(*arguments) == -errno.EINVAL
    assert flush(1 << 50, 0, 1, clean) == -errno.EINVAL
    assert flush(other.hypervisor.gdt_frame << 12, 0, 1, clean) == -errno.EPERM
    assert flush(mfn << 12, 0, 1, clean) == -errno.EINVAL, "not mapped"
    op = other.map(granter.domid, REF)
    assert flush(mfn << 12, 0, 1, clean) == 0
    assert other.unmap(op.handle) == 0


# -- Domain 0 ----------------------------------------------------------------------------------------------------------------------


def test_domain0_maps_many(machine: Hypervisor, granter: GrantGuest) -> None:
    dom0 = machine.dom0
    for reference in range(8, 12):
        granter.grant(reference, 0, pfn=reference)
    views = dom0.map_grants(granter.domid, [8, 9, 10, 8], writable=True)
    views[1][:4] = b"data"
    assert granter.read(granter.at(9), 4) == b"data"
    assert granter.count(granter.mfns[8]) == (4, 3) and granter.marks(8) == WRITING
    invariants.check(machine)
    for references, number in (([11, 12], errno.EPERM), ([11, 600], errno.EINVAL)):
        with pytest.raises(HypercallError) as refusal:
            dom0.map_grants(granter.domid, references, writable=False)
        assert refusal.value.errno == number and granter.marks(11) == 0, "all or none"
    with pytest.raises(HypercallError):
        dom0.unmap_grants(granter.domid, [9, 9])
    dom0.unmap_grants(granter.domid, [8, 9, 10])
    assert granter.marks(8) == WRITING and granter.marks(9) == 0
    granter.destroy()
    dom0.unmap_grant(granter.domid, 8)
    assert len(dom0.list_domains()) == 1


def test_domain0_copies(machine: Hypervisor, granter: GrantGuest) -> None:
    granter.grant(8, 0, pfn=8)
    granter.grant(9, 0, pfn=9, flags=ACCESS | READ_ONLY)
    granter.poke(9, b"from guest")
    incoming = memoryview(bytearray(10))
    outgoing = memoryview(b"to the guest")
    operations = [
        GrantCopy(granter.domid, 8, 4096 - 12, outgoing, True),
        GrantCopy(granter.domid, 9, 0, outgoing, True),
        GrantCopy(granter.domid, 8, 4096 - 11, outgoing, True),
        GrantCopy(77, 8, 0, outgoing, True),
        GrantCopy(granter.domid, 9, 0, incoming, False),
    ]
    expected = [0, abi.GNTST_general_error, abi.GNTST_bad_copy_arg, abi.GNTST_bad_domain, 0]
    assert machine.dom0.grant_copy(operations) == expected
    assert bytes(incoming) == b"from guest" and granter.read(granter.at(8, 4096 - 12), 12) == b"to the guest"
