"""memory_op: a domain's reservation, ballooning, and where the M2P table is (memory.h, Xen's common/memory.c)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from pyxen.abi import memory as abi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.hvm import physmap_op
from pyxen.hypervisor.preemption import BUDGET, Preempted, Slice

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

COMMAND_MASK = 0x3F  #: MEMOP_CMD_MASK; the rest of the command counts the extents already done
START_SHIFT = 6
#: MACH2PHYS_VIRT_START and _END: the room, not the size, of the table.
M2P_START, M2P_END = 0xFFFF_8000_0000_0000, 0xFFFF_8040_0000_0000
#: No PFN is wider than this; M2P entries of others stay invalid.
LAST_PFN = 1 << 52
#: Largest extent order of a domain without hardware (CONFIG_DOMU_MAX_ORDER).
MAX_ORDER = 9
#: More can't be counted in a continued command (UINT_MAX >> MEMOP_EXTENT_SHIFT).
MAX_EXTENTS = 0xFFFFFFFF >> START_SHIFT


def memory_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """The result is the operation's: often a count of extents or pages."""
    operation = (_HVM_OPERATIONS if vcpu.is_hvm else _OPERATIONS).get(command & COMMAND_MASK)
    if operation is None:
        vcpu.domain.note_unimplemented(f"memory_op {command & COMMAND_MASK}")
        return -errno.ENOSYS
    return operation(vcpu, command, argument)


def _check_self(vcpu: Vcpu, domid: int) -> None:
    vcpu.hypervisor.check_own_domid(vcpu.domain, domid)


def _maximum_ram_page(vcpu: Vcpu, command: int, argument: int) -> int:
    return vcpu.hypervisor.memory.total_frames - 1


def _current_reservation(vcpu: Vcpu, command: int, argument: int) -> int:
    _check_self(vcpu, guest_access.read_structure(vcpu, argument, abi.memory_domain).domid)
    return vcpu.domain.total_pages


def _maximum_reservation(vcpu: Vcpu, command: int, argument: int) -> int:
    _check_self(vcpu, guest_access.read_structure(vcpu, argument, abi.memory_domain).domid)
    return vcpu.domain.max_pages


def _machphys_mapping(vcpu: Vcpu, command: int, argument: int) -> int:
    mapping = abi.machphys_mapping()
    mapping.v_start = M2P_START
    mapping.v_end = M2P_END
    mapping.max_mfn = (M2P_END - M2P_START) // 8 - 1
    guest_access.write_structure(vcpu, argument, mapping)
    return 0


def _machphys_mfn_list(vcpu: Vcpu, command: int, argument: int) -> int:
    """MFNs of the M2P table's own 2 MiB pages."""
    op = guest_access.read_structure(vcpu, argument, abi.machphys_mfn_list)
    pages = vcpu.hypervisor.m2p_pages[: op.max_extents]
    for index, mfn in enumerate(pages):
        guest_access.write_long(vcpu, op.extent_start, mfn, index)
    op.nr_extents = len(pages)
    guest_access.write_structure(vcpu, argument, op)
    return 0


def _privileged(vcpu: Vcpu, command: int, argument: int) -> int:
    return -errno.EPERM


def _extents(operation: Callable[[Vcpu, int, int], int]) -> Callable[[Vcpu, int, int], int]:
    """These answer how many extents are done, also when the arguments can't be read or name no domain; only another domain is an errno."""

    def answer(vcpu: Vcpu, command: int, argument: int) -> int:
        try:
            return operation(vcpu, command, argument)
        except guest_access.GuestFault:
            return command >> START_SHIFT
        except HypercallError as refusal:
            if refusal.errno == errno.EPERM:
                raise
            return command >> START_SHIFT

    return answer


def _reservation(vcpu: Vcpu, command: int, argument: int) -> tuple[abi.memory_reservation, int, int]:
    """(arguments, first extent to do, extents to do). The start index in the command is the guest's word: EINVAL beyond the list
    is Xen's answer."""
    reservation = guest_access.read_structure(vcpu, argument, abi.memory_reservation)
    _check_self(vcpu, reservation.domid)
    start = command >> START_SHIFT
    if start >= reservation.nr_extents or reservation.nr_extents > MAX_EXTENTS or reservation.extent_order > MAX_ORDER:
        raise HypercallError(errno.EINVAL, "extents of a reservation")
    return reservation, start, reservation.nr_extents


def _this_time(reservation: abi.memory_reservation, start: int, command: int, argument: int) -> Iterator[int]:
    """The extents to do, until it is time to give way."""
    time_slice = Slice()
    for index in range(start, reservation.nr_extents):
        if index - start << reservation.extent_order >= BUDGET or (index > start and time_slice.over):
            raise Preempted(index << START_SHIFT | command & COMMAND_MASK, argument)
        yield index


def _populate_physmap(vcpu: Vcpu, command: int, argument: int) -> int:
    """Give frames at the PFNs listed; their MFNs replace the PFNs. -> extents done in all."""
    reservation, start, count = _reservation(vcpu, command, argument)
    pages = 1 << reservation.extent_order
    domain = vcpu.domain
    for index in _this_time(reservation, start, command, argument):
        where = reservation.extent_start + 8 * index
        try:
            pfn = guest_access.read_word(vcpu, where)
            guest_access.translate(vcpu, where, write=True)
            frames = _allocate_extent(vcpu, pages)
        except (HypercallError, guest_access.GuestFault):
            return index
        first = frames[0]
        if pfn <= LAST_PFN - pages:
            domain.hypervisor.m2p_array[first : first + pages] = np.arange(pfn, pfn + pages, dtype=np.uint64)
        guest_access.write_word(vcpu, where, first)
    return count


def _increase_reservation(vcpu: Vcpu, command: int, argument: int) -> int:
    """Give frames; their MFNs go to the list if there is one. -> extents done in all."""
    reservation, start, count = _reservation(vcpu, command, argument)
    pages = 1 << reservation.extent_order
    writes = reservation.extent_start and not vcpu.is_hvm  # to which MFNs mean nothing
    for index in _this_time(reservation, start, command, argument):
        where = reservation.extent_start + 8 * index
        try:
            if writes:
                guest_access.translate(vcpu, where, write=True)
            frames = _allocate_extent(vcpu, pages)
        except (HypercallError, guest_access.GuestFault):
            return index
        if writes:
            guest_access.write_word(vcpu, where, frames[0])
    return count


def _allocate_extent(vcpu: Vcpu, pages: int) -> list[int]:
    """One extent of contiguous frames. ENOMEM also when the allocator's frames are not contiguous."""
    domain = vcpu.domain
    frames: list[int] = domain.allocate_frames(pages).tolist()
    if frames[-1] - frames[0] != pages - 1:
        for mfn in frames:
            domain.release_frame(mfn)
        raise HypercallError(errno.ENOMEM, "no contiguous extent")
    return frames


def _decrease_reservation(vcpu: Vcpu, command: int, argument: int) -> int:
    """Take back the frames (MFNs) listed. -> extents done in all."""
    reservation, start, count = _reservation(vcpu, command, argument)
    for index in _this_time(reservation, start, command, argument):
        try:
            mfn = guest_access.read_long(vcpu, reservation.extent_start, index)
            vcpu.domain.release_extent(mfn, 1 << reservation.extent_order)
        except HypercallError as refusal:
            vcpu.hypervisor.guest_log(vcpu.domain.domid, f"decrease_reservation: {refusal.reason}")
            return index
        except guest_access.GuestFault:
            return index
    return count


def _populate_gfns(vcpu: Vcpu, command: int, argument: int) -> int:
    """Give frames at the GFNs listed. -> extents done in all."""
    reservation, start, count = _reservation(vcpu, command, argument)
    for index in _this_time(reservation, start, command, argument):
        try:
            physmap_op.populate(vcpu.domain, guest_access.read_long(vcpu, reservation.extent_start, index), 1 << reservation.extent_order)
        except (HypercallError, guest_access.GuestFault):
            return index
    return count


def _release_gfns(vcpu: Vcpu, command: int, argument: int) -> int:
    """Take back the frames at the GFNs listed, with one flush for all. -> extents done in all."""
    reservation, start, count = _reservation(vcpu, command, argument)
    pages = 1 << reservation.extent_order
    end = min(count, start + max(1, BUDGET // pages))
    extents: list[range] = []
    with contextlib.suppress(guest_access.GuestFault):
        for index in range(start, end):
            first = guest_access.read_long(vcpu, reservation.extent_start, index)
            extents.append(range(first, first + pages))
    done, reason = physmap_op.release(vcpu.domain, extents)
    if reason:
        vcpu.hypervisor.guest_log(vcpu.domain.domid, f"decrease_reservation: {reason}")
    if start + done < end or end == count:
        return start + done
    raise Preempted(end << START_SHIFT | command & COMMAND_MASK, argument)


def _memory_map(vcpu: Vcpu, command: int, argument: int) -> int:
    """A PV domain has a map only if its builder gave it one; ours does not, and the guest makes its own from nr_pages."""
    return -errno.ENOSYS


_OPERATIONS: dict[int, Callable[[Vcpu, int, int], int]] = {
    abi.XENMEM_increase_reservation: _extents(_increase_reservation),
    abi.XENMEM_decrease_reservation: _extents(_decrease_reservation),
    abi.XENMEM_populate_physmap: _extents(_populate_physmap),
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_memory_map: _memory_map,
    abi.XENMEM_machphys_mapping: _machphys_mapping,
    abi.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    abi.XENMEM_machine_memory_map: _privileged,
}
#: Frame numbers of HVM domains are GFNs, and the machine-to-physical table is none of their business.
_HVM_OPERATIONS: dict[int, Callable[[Vcpu, int, int], int]] = {
    abi.XENMEM_increase_reservation: _extents(_increase_reservation),
    abi.XENMEM_decrease_reservation: _extents(_release_gfns),
    abi.XENMEM_populate_physmap: _extents(_populate_gfns),
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_maximum_gpfn: physmap_op.maximum_gpfn,
    abi.XENMEM_memory_map: physmap_op.memory_map,
    abi.XENMEM_add_to_physmap: physmap_op.add_to_physmap,
    abi.XENMEM_add_to_physmap_batch: physmap_op.add_to_physmap_batch,
    abi.XENMEM_remove_from_physmap: physmap_op.remove_from_physmap,
}
