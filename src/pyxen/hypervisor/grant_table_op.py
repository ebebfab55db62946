"""grant_table_op: the hypercall's list of operations, their statuses and errors (grant_table.h, Xen's common/grant_table.c).

Operations on lists give way after a bounded number of elements. An element that can't be read or written ends the list with -EFAULT; those
before it are done.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyxen.abi import grant_table as abi
from pyxen.hypervisor import grant_copy, grant_mapping, grant_transfer, guest_access
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.grant_entries import GrantError
from pyxen.hypervisor.preemption import BUDGET, Preempted, Slice

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

COMMAND_MASK = 0xFFF  #: the bits above are a continuation of GNTTABOP_cache_flush on Xen, and refused otherwise
PAGE_SIZE = 4096


def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int) -> int:
    """Run ``count`` operations of one kind. -ENOSYS, -EINVAL, -EFAULT; each operation has its own status besides."""
    if count > 0x7FFFFFFF or command & ~COMMAND_MASK:
        return -errno.EINVAL
    if command in _QUERIES:
        layout, query, needs_one = _QUERIES[command]
        if needs_one and count != 1:
            return -errno.EINVAL
        return query(vcpu, guest_access.read_structure(vcpu, argument, layout), argument)
    if command == abi.GNTTABOP_cache_flush:
        return _cache_flush(vcpu, argument, count)
    if command in _LISTS:
        return _run_list(vcpu, command, argument, count)
    vcpu.domain.note_unimplemented(f"grant_table_op {command}")
    return -errno.ENOSYS


# -- queries: one structure ---------------------------------------------------------------------------------------------


def _own_table_status(vcpu: Vcpu, untrusted_domid: int) -> int:
    """Whether a query may go on: a domain asks only about itself."""
    try:
        vcpu.hypervisor.check_own_domid(vcpu.domain, untrusted_domid)
    except HypercallError as refusal:
        return abi.GNTST_bad_domain if refusal.errno == errno.ESRCH else abi.GNTST_permission_denied
    return abi.GNTST_okay


def _write_frames(vcpu: Vcpu, address: int, frames: list[int], write: Callable[[Vcpu, int, int, int], None]) -> int:
    """The list of a query's answer, as the guest names frames. -> its status."""
    try:
        for index, mfn in enumerate(frames):
            write(vcpu, address, vcpu.domain.guest_frame(mfn), index)
    except guest_access.GuestFault:
        return abi.GNTST_bad_virt_addr
    return abi.GNTST_okay


def _write_64(vcpu: Vcpu, array: int, value: int, index: int) -> None:
    """The frames of statuses are 64-bit numbers for every caller."""
    guest_access.write_word(vcpu, array + 8 * index, value)


def _setup_table(vcpu: Vcpu, op: abi.gnttab_setup_table, argument: int) -> int:
    table = vcpu.domain.grant_table
    op.status = _own_table_status(vcpu, op.dom)
    if op.status == abi.GNTST_okay:
        try:
            table.grow(op.nr_frames)
            op.status = _write_frames(vcpu, op.frame_list, table.frames[: op.nr_frames], guest_access.write_long)
        except HypercallError as refusal:
            vcpu.hypervisor.guest_log(vcpu.domain.domid, f"setup_table: {refusal.reason}")
            op.status = abi.GNTST_general_error
    guest_access.write_member(vcpu, argument, op, "status")
    return 0


def _get_status_frames(vcpu: Vcpu, op: abi.gnttab_get_status_frames, argument: int) -> int:
    frames = vcpu.domain.grant_table.entries.status_frames
    op.status = _own_table_status(vcpu, op.dom)
    if op.status == abi.GNTST_okay:
        if op.nr_frames > len(frames):
            op.status = abi.GNTST_general_error
        else:
            op.status = _write_frames(vcpu, op.frame_list, frames[: op.nr_frames], _write_64)
    guest_access.write_member(vcpu, argument, op, "status")
    return 0


def _query_size(vcpu: Vcpu, op: abi.gnttab_query_size, argument: int) -> int:
    table = vcpu.domain.grant_table
    op.status = _own_table_status(vcpu, op.dom)
    if op.status == abi.GNTST_okay:
        op.nr_frames, op.max_nr_frames = len(table.frames), table.max_frames
    guest_access.write_structure(vcpu, argument, op)
    return 0


def _set_version(vcpu: Vcpu, op: abi.gnttab_set_version, argument: int) -> int:
    table, result = vcpu.domain.grant_table, 0
    try:
        table.set_version(op.version)
    except HypercallError as refusal:
        vcpu.hypervisor.guest_log(vcpu.domain.domid, f"set_version: {refusal.reason}")
        result = -refusal.errno
    op.version = table.entries.version
    guest_access.write_structure(vcpu, argument, op)
    return result


def _get_version(vcpu: Vcpu, op: abi.gnttab_get_version, argument: int) -> int:
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.dom)
    op.version = vcpu.domain.grant_table.entries.version
    guest_access.write_member(vcpu, argument, op, "version")
    return 0


# -- lists ----------------------------------------------------------------------------------------------------------------


def _run_list(vcpu: Vcpu, command: int, argument: int, count: int) -> int:
    layout, operation, whole = _LISTS[command]
    size = guest_access.size_of(vcpu, layout)
    batch: list[grant_mapping.Unmapped] = []
    try:
        for index in _this_time(command, argument, size, count):
            address = argument + index * size
            op = guest_access.read_structure(vcpu, address, layout)
            try:
                unmapped = operation(vcpu, op)
                op.status = abi.GNTST_okay
                if unmapped is not None:
                    batch.append(unmapped)
            except GrantError as refusal:
                vcpu.hypervisor.guest_log(vcpu.domain.domid, f"grant_table_op {command}: {refusal.reason}")
                op.status = refusal.status
            if whole:
                guest_access.write_structure(vcpu, address, op)
            else:
                guest_access.write_member(vcpu, address, op, "status")
    finally:
        grant_mapping.complete(vcpu.domain, batch)
    return 0


def _this_time(command: int, argument: int, size: int, count: int) -> Iterator[int]:
    """The elements of a list to do, until it is time to give way."""
    time_slice = Slice()
    for index in range(count):
        if index == BUDGET or (index and time_slice.over):
            raise Preempted(command, argument + index * size, count - index)
        yield index


def _map_grant_ref(vcpu: Vcpu, op: abi.gnttab_map_grant_ref) -> None:
    op.handle, mfn = grant_mapping.map_grant(vcpu.domain, vcpu.kernel_root, op.dom, op.ref, op.flags, op.host_addr)
    op.dev_bus_addr = mfn << 12


def _unmap_grant_ref(vcpu: Vcpu, op: abi.gnttab_unmap_grant_ref) -> grant_mapping.Unmapped:
    return grant_mapping.unmap_grant(vcpu.domain, vcpu.kernel_root, op.handle, op.host_addr, op.dev_bus_addr)


def _unmap_and_replace(vcpu: Vcpu, op: abi.gnttab_unmap_and_replace) -> grant_mapping.Unmapped:
    return grant_mapping.unmap_grant(vcpu.domain, vcpu.kernel_root, op.handle, op.host_addr, untrusted_new_address=op.new_addr)


def _copy(vcpu: Vcpu, op: abi.gnttab_copy) -> None:
    grant_copy.copy(vcpu.domain, op)


def _transfer(vcpu: Vcpu, op: abi.gnttab_transfer) -> None:
    grant_transfer.transfer(vcpu.domain, op.mfn, op.domid, op.ref)


def _swap_grant_ref(vcpu: Vcpu, op: abi.gnttab_swap_grant_ref) -> None:
    vcpu.domain.grant_table.swap(op.ref_a, op.ref_b)


# -- cache flush ------------------------------------------------------------------------------------------------------------


def _cache_flush(vcpu: Vcpu, argument: int, count: int) -> int:
    """GNTTABOP_cache_flush: checked; caches are coherent here. The first refusal ends the list."""
    size = guest_access.size_of(vcpu, abi.gnttab_cache_flush)
    for index in _this_time(abi.GNTTABOP_cache_flush, argument, size, count):
        _flush_one(vcpu.domain, guest_access.read_structure(vcpu, argument + index * size, abi.gnttab_cache_flush))
    return 0


def _flush_one(domain: Domain, op: abi.gnttab_cache_flush) -> None:
    """EINVAL, EPERM, EOPNOTSUPP (what x86 can't do: invalidate without writing back)."""
    if op.offset >= PAGE_SIZE or op.offset + op.length > PAGE_SIZE or op.op & ~(abi.GNTTAB_CACHE_INVAL | abi.GNTTAB_CACHE_CLEAN):
        raise HypercallError(errno.EINVAL, "arguments of a cache flush")
    if not op.length or not op.op:
        return
    memory, mfn = domain.hypervisor.memory, op.a.dev_bus_addr >> 12
    if mfn >= memory.total_frames:
        raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is outside machine memory")
    table = domain.hypervisor.grant_table(memory.owner[mfn])
    if table is None:
        raise HypercallError(errno.EPERM, f"frame {mfn:#x} belongs to no domain")
    granted = (active.domid == domain.domid and active.frame == mfn for active in table.active.values())
    if table.domain is not domain and not any(granted):
        raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is not granted to domain {domain.domid}")
    if op.op == abi.GNTTAB_CACHE_INVAL:
        raise HypercallError(errno.EOPNOTSUPP, "caches can't be invalidated without being written back")


#: Layout, function, and whether the count must be 1.
_QUERIES: dict[int, tuple[type[ctypes.Structure], Callable[..., int], bool]] = {
    abi.GNTTABOP_setup_table: (abi.gnttab_setup_table, _setup_table, True),
    abi.GNTTABOP_query_size: (abi.gnttab_query_size, _query_size, True),
    abi.GNTTABOP_set_version: (abi.gnttab_set_version, _set_version, False),
    abi.GNTTABOP_get_status_frames: (abi.gnttab_get_status_frames, _get_status_frames, True),
    abi.GNTTABOP_get_version: (abi.gnttab_get_version, _get_version, False),
}
#: Layout, function, and whether the whole structure is copied out, not just its status.
_LISTS: dict[int, tuple[type[ctypes.Structure], Callable[..., grant_mapping.Unmapped | None], bool]] = {
    abi.GNTTABOP_map_grant_ref: (abi.gnttab_map_grant_ref, _map_grant_ref, True),
    abi.GNTTABOP_unmap_grant_ref: (abi.gnttab_unmap_grant_ref, _unmap_grant_ref, False),
    abi.GNTTABOP_unmap_and_replace: (abi.gnttab_unmap_and_replace, _unmap_and_replace, False),
    abi.GNTTABOP_copy: (abi.gnttab_copy, _copy, False),
    abi.GNTTABOP_transfer: (abi.gnttab_transfer, _transfer, False),
    abi.GNTTABOP_swap_grant_ref: (abi.gnttab_swap_grant_ref, _swap_grant_ref, False),
}
