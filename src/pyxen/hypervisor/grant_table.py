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
from pyxen.hypervisor.frame_table import WRITABLE

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

ENTRIES_PER_FRAME = 512
INITIAL_FRAMES = 1


class GrantTable:
    """The grants that one domain gives. ``frames`` are MFNs of the table itself."""

    def __init__(self, domain: Domain, max_frames: int) -> None:
        self._domain = domain
        self.max_frames = max_frames
        self.frames: list[int] = []
        self._mapped: dict[int, tuple[int, int]] = {}  # reference -> (times mapped, MFN)
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
        """Take a mapping of the granted frame for Domain 0. -> MFN. EINVAL, EPERM."""
        address = self._address(reference)
        entry = self._domain.hypervisor.memory.words[address >> 3]
        flags, domid, mfn = entry & 0xFFFF, entry >> 16 & 0xFFFF, entry >> 32
        if flags & GTF_type_mask != GTF_permit_access or domid != 0:
            raise HypercallError(errno.EPERM, f"grant {reference} of domain {self._domain.domid} is not given to Domain 0")
        if writable and flags & GTF_readonly:
            raise HypercallError(errno.EPERM, f"grant {reference} of domain {self._domain.domid} is read-only")
        frames = self._domain.hypervisor.frames
        if writable:
            frames.get_page_and_type(mfn, self._domain.domid, WRITABLE)
            frames.put_type(mfn)
        else:
            frames.get(mfn, self._domain.domid)
        self._domain.hypervisor.engine.set_bits(address, GTF_reading | (GTF_writing if writable else 0))
        times, _ = self._mapped.get(reference, (0, mfn))
        self._mapped[reference] = (times + 1, mfn)
        return mfn

    def unmap_for_domain0(self, reference: int) -> None:
        """Give a mapping back. EINVAL when there is none."""
        if reference not in self._mapped:
            raise HypercallError(errno.EINVAL, f"grant {reference} is not mapped")
        times, mfn = self._mapped.pop(reference)
        if times > 1:
            self._mapped[reference] = (times - 1, mfn)
        else:
            self._clear_in_use(reference)
        self._domain.hypervisor.frames.put(mfn)

    def _clear_in_use(self, reference: int) -> None:
        address = self._address(reference)
        engine, words = self._domain.hypervisor.engine, self._domain.hypervisor.memory.words
        while True:
            entry = words[address >> 3]
            if engine.compare_exchange(address, entry, entry & ~(GTF_reading | GTF_writing)):
                return

    def release(self) -> None:
        """The domain is dying: give up mappings that Domain 0 still has."""
        for reference, (times, mfn) in list(self._mapped.items()):
            for _ in range(times):
                self._domain.hypervisor.frames.put(mfn)
            del self._mapped[reference]
