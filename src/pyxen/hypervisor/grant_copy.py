"""GNTTABOP_copy: octets between two pages, each named by a grant or, if it is the caller's own, by its frame (Xen's common/grant_table.c).

All functions are called with the hypervisor lock held, so a page that was checked stays what it is until the copy is done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pyxen.abi.grant_table import (
    GNTCOPY_dest_gref,
    GNTCOPY_source_gref,
    GNTST_bad_copy_arg,
    GNTST_bad_domain,
    GNTST_bad_page,
    GNTST_general_error,
    GNTST_permission_denied,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_writing,
    gnttab_copy,
    gnttab_copy_ptr,
)
from pyxen.hypervisor.dom0_interface import DOMID_SELF, GrantCopy, HypercallError
from pyxen.hypervisor.frame_table import WRITABLE
from pyxen.hypervisor.grant_entries import PAGE_SIZE, GrantError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain


def copy(caller: Domain, untrusted_op: gnttab_copy) -> None:
    """One operation. GrantError."""
    if not untrusted_op.len:
        return
    source, dest, flags, length = untrusted_op.source, untrusted_op.dest, untrusted_op.flags, untrusted_op.len
    from_reference, to_reference = bool(flags & GNTCOPY_source_gref), bool(flags & GNTCOPY_dest_gref)
    giver = _granter(caller, source.domid, by_reference=from_reference)
    taker = _granter(caller, dest.domid, by_reference=to_reference)
    with (
        _page(caller, giver, source, by_reference=from_reference, readonly=True) as (from_mfn, *from_part),
        _page(caller, taker, dest, by_reference=to_reference, readonly=False) as (to_mfn, *to_part),
    ):
        if source.offset + length > PAGE_SIZE or dest.offset + length > PAGE_SIZE:
            raise GrantError(GNTST_bad_copy_arg, "a copy crosses the end of a page")
        _check_part(source.offset, length, *from_part)
        _check_part(dest.offset, length, *to_part)
        memory = caller.hypervisor.memory
        start = (from_mfn << 12) + source.offset
        memory.page(to_mfn)[dest.offset : dest.offset + length] = bytes(memory.octets[start : start + length])
        caller.hypervisor.note_write(to_mfn)


def copy_local(caller: Domain, operation: GrantCopy) -> None:
    """As ``copy``, with memory of Domain 0's own at one end. GrantError."""
    if not _copy_plain_page(caller, operation):
        _copy_any(caller, operation)


def _copy_plain_page(caller: Domain, operation: GrantCopy) -> bool:
    """The copy, in the case that nearly every one is: a version 1 grant of a whole page, in no other use, and of a page that is writable
    if it is to be written. -> whether it is that case; if not, nothing was done. It does what ``_copy_any`` does, without taking what it
    would give back at once: the lock is held to the end, so the frame stays what it is, and only the guest's marks have to be set."""
    hypervisor = caller.hypervisor
    table = hypervisor.grant_table(operation.domid)
    reference, offset, local, to_guest = operation.reference, operation.offset, operation.local, operation.to_guest
    if table is None or table.entries.version != 1 or reference in table.active or not 0 <= reference < table.entries.count:
        return False
    memory, length = hypervisor.memory, local.nbytes
    address = table.entries.address(reference)
    word = memory.words[address >> 3]
    flags = word & 0xFFFF
    permitted = flags == GTF_permit_access or (flags == GTF_permit_access | GTF_readonly and not to_guest)
    if not permitted or word >> 16 & 0xFFFF != caller.domid or not length or offset < 0 or offset + length > PAGE_SIZE:
        return False
    frames, domid = hypervisor.frames, table.domain.domid
    try:
        mfn = table.domain.machine_frame(word >> 32)
    except HypercallError:
        return False
    if mfn >= memory.total_frames or memory.owner[mfn] != domid or not frames.count[mfn]:
        return False
    if to_guest and not (frames.type[mfn] == WRITABLE and frames.type_count[mfn]):
        return False
    marks = GTF_reading | GTF_writing if to_guest else GTF_reading
    if not hypervisor.engine.compare_exchange(address, word, word | marks):
        return False
    page = memory.page(mfn)[offset : offset + length]
    if to_guest:
        page[:] = local.cast("B")
        hypervisor.note_write(mfn)
    else:
        local.cast("B")[:] = page
    table.entries.clear_status(reference, marks)
    return True


def _copy_any(caller: Domain, operation: GrantCopy) -> None:
    """Any copy. GrantError."""
    end = gnttab_copy_ptr()
    end.u.ref, end.domid, end.offset = operation.reference, operation.domid, operation.offset
    length = operation.local.nbytes
    granter = _granter(caller, operation.domid, by_reference=True)
    with _page(caller, granter, end, by_reference=True, readonly=not operation.to_guest) as (mfn, *part):
        if operation.offset + length > PAGE_SIZE:
            raise GrantError(GNTST_bad_copy_arg, "a copy crosses the end of a page")
        _check_part(operation.offset, length, *part)
        page = caller.hypervisor.memory.page(mfn)[operation.offset : operation.offset + length]
        if operation.to_guest:
            page[:] = operation.local.cast("B")
            caller.hypervisor.note_write(mfn)
        else:
            operation.local.cast("B")[:] = page


def _granter(caller: Domain, untrusted_domid: int, *, by_reference: bool) -> Domain:
    """The domain that one end names. Only the caller's own frames go without a grant. GNTST_permission_denied, GNTST_bad_domain."""
    if untrusted_domid == DOMID_SELF:
        return caller
    if not by_reference:
        raise GrantError(GNTST_permission_denied, "only DOMID_SELF may name frames")
    table = caller.hypervisor.grant_table(untrusted_domid)
    if table is None:
        raise GrantError(GNTST_bad_domain, f"there is no domain {untrusted_domid}")
    return table.domain


@contextmanager
def _page(caller: Domain, granter: Domain, end: gnttab_copy_ptr, *, by_reference: bool, readonly: bool) -> Iterator[tuple[int, int, int]]:
    """Hold one end's page: pinned if granted, with a WRITABLE reference if written. -> (MFN, start, length) of what may be used."""
    if not by_reference:
        try:
            mfn = granter.machine_frame(end.u.gmfn)
        except HypercallError as refusal:
            raise GrantError(GNTST_bad_page, refusal.reason) from None
        with _held(granter, mfn, GNTST_bad_page, readonly=readonly):
            yield mfn, 0, PAGE_SIZE
        return
    table, reference = granter.grant_table, end.u.ref
    active = table.pin_for_copy(reference, caller.domid, readonly=readonly)
    try:
        with _held(active.table.domain, active.frame, GNTST_bad_domain, readonly=readonly):
            yield active.frame, active.start, active.length
    finally:
        table.unpin_copy(reference, readonly=readonly)


@contextmanager
def _held(owner: Domain, untrusted_mfn: int, status: int, *, readonly: bool) -> Iterator[None]:
    """References on a frame for the time of a copy. ``status`` if it is not the owner's, GNTST_general_error if it can't be written."""
    frames = owner.hypervisor.frames
    try:
        frames.get(untrusted_mfn, owner.domid)
    except HypercallError as refusal:
        raise GrantError(status, refusal.reason) from None
    try:
        if readonly:
            yield
            return
        try:
            frames.get_type(untrusted_mfn, WRITABLE)
        except HypercallError as refusal:
            raise GrantError(GNTST_general_error, refusal.reason) from None
        try:
            yield
        finally:
            frames.put_type(untrusted_mfn)
    finally:
        frames.put(untrusted_mfn)


def _check_part(offset: int, length: int, start: int, size: int) -> None:
    """GNTST_general_error outside of the part of the page that is granted."""
    if offset < start or offset + length > start + size:
        raise GrantError(GNTST_general_error, f"octets {offset} to {offset + length}, granted {start} to {start + size}")
