"""memory_op of HVM domains: where frames are in the guest's physical memory (memory.h; Xen's common/memory.c and arch/x86/mm/p2m.c).

Frame numbers are GFNs. Frames of other domains are mapped by grants alone: XENMAPSPACE_gmfn_foreign is for Xen's hardware domain.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from pyxen.abi import memory as abi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import ALLOCATED
from pyxen.hypervisor.hvm.p2m import FRAME, PhysicalMap
from pyxen.hypervisor.preemption import BUDGET, Preempted, Slice

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

#: Of ``idx`` in XENMAPSPACE_grant_table: the frame holds statuses.
GRANT_STATUS = 1 << 31


def physical_map(domain: Domain) -> PhysicalMap:
    """That of an HVM domain."""
    assert domain.hvm is not None
    return domain.hvm.physical_map


def populate(domain: Domain, gfn: int, pages: int) -> None:
    """New frames at consecutive GFNs. ENOMEM, EINVAL, EEXIST; then nothing is given."""
    frames = domain.allocate_frames(pages)
    try:
        physical_map(domain).populate(np.arange(gfn, gfn + pages, dtype=np.uint64), frames)
    except HypercallError:
        for mfn in frames.tolist():
            domain.release_frame(mfn)
        raise


def release(domain: Domain, extents: list[range]) -> tuple[int, str]:
    """Take RAM out of the reservation, with one flush for all. -> how many extents are gone, and why the next one is not."""
    taken: list[int] = []
    done = 0
    reason = ""
    try:
        for extent in extents:
            for gfn in extent:
                domain.release_frame(physical_map(domain).frame(gfn))
                taken.append(gfn)
            done += 1
    except HypercallError as refusal:
        reason = refusal.reason
    physical_map(domain).remove_all(taken)
    return done, reason


def _frame_to_map(domain: Domain, space: int, index: int) -> int:
    """The machine frame that XENMEM_add_to_physmap names. EINVAL, EPERM (what only the hardware domain may map), ENOMEM."""
    if space == abi.XENMAPSPACE_shared_info:
        if index:
            raise HypercallError(errno.EINVAL, "there is one shared info page")
        return domain.shared_info >> 12
    if space == abi.XENMAPSPACE_grant_table:
        return _grant_frame(domain, index)
    if space in (abi.XENMAPSPACE_gmfn, abi.XENMAPSPACE_gmfn_range):
        return physical_map(domain).frame(index)
    raise HypercallError(errno.EPERM if space == abi.XENMAPSPACE_gmfn_foreign else errno.EINVAL, f"map space {space}")


def _grant_frame(domain: Domain, index: int) -> int:
    """A frame of the grant table, which grows for it, or of its statuses."""
    table = domain.grant_table
    if index & GRANT_STATUS:
        frames = table.entries.status_frames
        index &= ~GRANT_STATUS
        if table.entries.version != 2 or index >= len(frames):
            raise HypercallError(errno.EINVAL, f"status frame {index} of the grant table")
        return frames[index]
    if index >= len(table.frames):
        table.grow(index + 1)
    return table.frames[index]


def _map_one(domain: Domain, space: int, index: int, gfn: int) -> None:
    """Put the frame at the GFN. What was there as RAM leaves the reservation (xenmem_add_to_physmap_one)."""
    hypervisor, table = domain.hypervisor, physical_map(domain)
    mfn = _frame_to_map(domain, space, index)
    old = table.entry(gfn)
    table.place(gfn, mfn)
    if old is not None and old & FRAME != mfn and hypervisor.frames.flags[old & FRAME] & ALLOCATED:
        domain.release_frame(old & FRAME)


def add_to_physmap(vcpu: Vcpu, command: int, argument: int) -> int:
    """XENMEM_add_to_physmap. A range goes on where it was interrupted: its numbers in the guest's structure advance."""
    op = guest_access.read_structure(vcpu, argument, abi.add_to_physmap)
    if op.space == abi.XENMAPSPACE_gmfn_foreign:
        return -errno.ENOSYS  # only the batch names the other domain
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    if op.space == abi.XENMAPSPACE_dev_mmio:
        return -errno.EACCES
    if op.space != abi.XENMAPSPACE_gmfn_range:
        _map_one(vcpu.domain, op.space, op.idx, op.gpfn)
        return 0
    time_slice = Slice()
    for _ in range(min(op.size, BUDGET)):
        _map_one(vcpu.domain, op.space, op.idx, op.gpfn)
        op.idx, op.gpfn, op.size = op.idx + 1, op.gpfn + 1, op.size - 1
        if time_slice.over:
            break
    if op.size:
        guest_access.write_structure(vcpu, argument, op)
        raise Preempted(command, argument)
    return 0


def add_to_physmap_batch(vcpu: Vcpu, command: int, argument: int) -> int:
    """XENMEM_add_to_physmap_batch: an errno for each."""
    op = guest_access.read_structure(vcpu, argument, abi.add_to_physmap_batch)
    if op.space == abi.XENMAPSPACE_gmfn_range:
        return -errno.EOPNOTSUPP
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    if op.space == abi.XENMAPSPACE_dev_mmio:
        return -errno.EACCES
    done, time_slice = min(op.size, BUDGET), Slice()
    for number in range(done):
        index = guest_access.read_long(vcpu, op.idxs, number)
        gfn = guest_access.read_long(vcpu, op.gpfns, number)
        result = 0
        try:
            _map_one(vcpu.domain, op.space, index, gfn)
        except HypercallError as refusal:
            result = -refusal.errno
        guest_access.write(vcpu, op.errs + 4 * number, result.to_bytes(4, "little", signed=True))
        if time_slice.over:
            done = number + 1
            break
    if done < op.size:
        longs = guest_access.long_size(vcpu) * done
        op.idxs, op.gpfns, op.errs, op.size = op.idxs + longs, op.gpfns + longs, op.errs + 4 * done, op.size - done
        guest_access.write_structure(vcpu, argument, op)
        raise Preempted(command, argument)
    return 0


def remove_from_physmap(vcpu: Vcpu, command: int, argument: int) -> int:
    """XENMEM_remove_from_physmap. A frame of the reservation stays the domain's."""
    op = guest_access.read_structure(vcpu, argument, abi.remove_from_physmap)
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    physical_map(vcpu.domain).remove(op.gpfn)
    return 0


def maximum_gpfn(vcpu: Vcpu, command: int, argument: int) -> int:
    """XENMEM_maximum_gpfn."""
    vcpu.hypervisor.check_own_domid(vcpu.domain, guest_access.read_structure(vcpu, argument, abi.memory_domain).domid)
    return physical_map(vcpu.domain).last_gfn()


def memory_map(vcpu: Vcpu, command: int, argument: int) -> int:
    """XENMEM_memory_map: what the domain builder said. -ENOSYS if it said nothing."""
    container = vcpu.domain.hvm
    if container is None or not container.memory_map:
        return -errno.ENOSYS
    op = guest_access.read_structure(vcpu, argument, abi.memory_map)
    entries = container.memory_map[: op.nr_entries]
    guest_access.write(vcpu, op.buffer, b"".join(bytes(abi.e820entry(*entry)) for entry in entries))
    op.nr_entries = len(entries)
    guest_access.write_structure(vcpu, argument, op)
    return 0
