"""Grant table, version 1: frames that a domain lets another one map (grant_table.h, Xen's common/grant_table.c).

The table's frames are Xen's, shared with the guest. What is here serves the console, the store and Domain 0's backends; mapping by
other guests is
answered -ENOSYS by the hypercall until it is implemented.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi.grant_table import GTF_permit_access, GTF_reading, GTF_readonly, GTF_type_mask, GTF_writing
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_hold import FrameHold

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

ENTRIES_PER_FRAME = 512
INITIAL_FRAMES = 1


class GrantTable:
    """The grants that one domain gives. ``frames`` are MFNs of the table itself; ``mapped`` has what Domain 0 holds, by reference."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.max_frames = 0
        self.frames: list[int] = []
        self.mapped: dict[int, FrameHold] = {}

    def open(self, max_frames: int) -> None:
        """Let the domain have a table of up to ``max_frames`` frames. ENOMEM."""
        self.max_frames = max_frames
        self.grow(INITIAL_FRAMES)

    def grow(self, count: int) -> None:
        """Have at least ``count`` frames. EINVAL above the domain's limit, ENOMEM."""
        if count > self.max_frames:
            raise HypercallError(errno.EINVAL, f"{count} grant frames, the limit is {self.max_frames}")
        while len(self.frames) < count:
            self.frames.append(self._domain.allocate_xen_heap_frame())

    def _address(self, reference: int) -> int:
        if not 0 <= reference < len(self.frames) * ENTRIES_PER_FRAME:
            raise HypercallError(errno.EINVAL, f"grant reference {reference} is beyond the table")
        return (self.frames[reference >> 9] << 12) + (reference & 511) * 8

    def seed(self, reference: int, granted_domid: int, mfn: int) -> None:
        """Write an entry on behalf of a domain under construction."""
        self._domain.hypervisor.memory.words[self._address(reference) >> 3] = GTF_permit_access | granted_domid << 16 | mfn << 32

    def map_for_domain0(self, reference: int, *, writable: bool) -> int:
        """Take a mapping of the granted frame for Domain 0. -> MFN. EINVAL, EPERM.

        While a reference is mapped it stands for the frame that was mapped first, whatever the guest writes into the entry.
        """
        hypervisor = self._domain.hypervisor
        address = self._address(reference)
        in_use = GTF_reading | (GTF_writing if writable else 0)
        while True:
            entry = hypervisor.memory.words[address >> 3]
            self._check(reference, entry, writable=writable)
            hold = self.mapped.get(reference) or FrameHold(entry >> 32)
            hold.take(hypervisor.frames, self._domain.domid, writable=writable)
            if hypervisor.engine.compare_exchange(address, entry, entry | in_use):
                self.mapped[reference] = hold
                return hold.mfn
            # The guest changed the entry meanwhile: look again.
            hold.drop(hypervisor.frames)

    def _check(self, reference: int, untrusted_entry: int, *, writable: bool) -> None:
        flags, domid = untrusted_entry & 0xFFFF, untrusted_entry >> 16 & 0xFFFF
        if flags & GTF_type_mask != GTF_permit_access or domid != 0:
            raise HypercallError(errno.EPERM, f"grant {reference} of domain {self._domain.domid} is not given to Domain 0")
        if writable and flags & GTF_readonly:
            raise HypercallError(errno.EPERM, f"grant {reference} of domain {self._domain.domid} is read-only")

    def unmap_for_domain0(self, reference: int) -> None:
        """Give a mapping back. EINVAL when there is none."""
        hold = self.mapped.get(reference)
        if hold is None:
            raise HypercallError(errno.EINVAL, f"grant {reference} is not mapped")
        if hold.times == 1:
            del self.mapped[reference]
            self._clear_in_use(reference)
        hold.drop(self._domain.hypervisor.frames)

    def _clear_in_use(self, reference: int) -> None:
        address = self._address(reference)
        engine, words = self._domain.hypervisor.engine, self._domain.hypervisor.memory.words
        while True:
            entry = words[address >> 3]
            if engine.compare_exchange(address, entry, entry & ~(GTF_reading | GTF_writing)):
                return
