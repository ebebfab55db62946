"""Reference counts and types of frames: the rule on which isolation of PV guests rests (Xen's page_info).

Every frame has an owner (``MachineMemory``), a general count and a typed count. A frame has one type at a time, and the type can
change only
while the typed count is 0: so no frame is writable to a guest and a page table or descriptor page at the same time. A frame is freed
when its general count drops to 0; ``ALLOCATED`` stands for the reference that belonging to a domain is.

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable

import numpy as np

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.machine_memory import Frames, MachineMemory

# Types. L1..L4 equal their level.
NONE, L1, L2, L3, L4, SEGMENT_DESCRIPTORS, WRITABLE = range(7)
TYPE_NAMES = ("none", "L1", "L2", "L3", "L4", "segment descriptors", "writable")

#: All ones in an entry's address bits.
INVALID_MFN = (1 << 40) - 1

# Flags.
PINNED = 1  #: a pin holds one general and one typed reference
ALLOCATED = 2  #: belongs to a domain's reservation: holds one general reference
XEN_HEAP = 4  #: Xen's own page that the domain may map (shared_info, grant table); not part of its reservation


class FrameBlock(ctypes.Structure):
    """struct pyxen_frames: where native code finds the table, and what it has beside its arrays."""

    _fields_ = [
        ("counts", ctypes.c_void_p),
        ("types", ctypes.c_void_p),
        ("type_counts", ctypes.c_void_p),
        ("stamps", ctypes.c_void_p),
        ("flags", ctypes.c_void_p),
        ("owners", ctypes.c_void_p),
        ("clock", ctypes.c_uint64),
        ("m2p_entry", ctypes.c_uint64),
    ]


class FrameTable:
    """Counts and types, one entry per frame: numpy arrays for whole tables, memoryviews of the same data for single frames."""

    def __init__(self, memory: MachineMemory) -> None:
        self.memory = memory
        total = memory.total_frames
        self.counts = np.zeros(total, dtype=np.uint32)
        self.types = np.zeros(total, dtype=np.uint8)
        self.type_counts = np.zeros(total, dtype=np.uint32)
        self.stamps = np.zeros(total, dtype=np.uint64)
        self.flags_array = np.zeros(total, dtype=np.uint8)
        self.count = self.counts.data
        self.type = self.types.data
        self.type_count = self.type_counts.data
        #: Value of ``clock`` when the typed count last dropped to 0: a TLB not flushed since then may hold the old use.
        self.stamp = self.stamps.data
        self.flags = self.flags_array.data
        arrays = (self.counts, self.types, self.type_counts, self.stamps, self.flags_array, memory.owners)
        self.block = FrameBlock(*(array.ctypes.data for array in arrays), clock=1)
        #: Called with (owner, stamp) before a frame gets another type: flush every TLB of the owner not flushed since the stamp.
        self.flush_stale: Callable[[int, int], None] = lambda owner, stamp: None
        #: Called with the owner when so many frames of its reservation are freed.
        self.freed: Callable[[int, int], None] = lambda owner, count: None
        #: Validate and release whole page tables; set by ``PageTables``.
        self.validate: Callable[[int, int], None] = lambda mfn, level: None
        self.devalidate: Callable[[int, int], None] = lambda mfn, level: None

    @property
    def clock(self) -> int:
        """Counts flushes of TLBs."""
        value: int = self.block.clock
        return value

    @clock.setter
    def clock(self, value: int) -> None:
        self.block.clock = value

    # -- ownership -------------------------------------------------------------------------------------------------
    def assign(self, frames: Frames, flag: int) -> None:
        """New frames from the allocator become a domain's: one general reference each, held by ``flag``."""
        self.counts[frames] = 1
        self.types[frames] = NONE
        self.type_counts[frames] = 0
        self.flags_array[frames] = flag

    def get(self, mfn: int, domid: int) -> None:
        """Take a general reference. EINVAL for no frame, and for another domain's."""
        if mfn >= self.memory.total_frames:
            raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is outside machine memory")
        if self.memory.owner[mfn] != domid or not self.count[mfn]:
            raise HypercallError(errno.EINVAL, f"frame {mfn:#x} belongs to another domain")
        self.count[mfn] += 1

    def mapping_refusal(self, mfn: int) -> HypercallError:
        """Why an L1 entry can't map a frame for which ``get`` refuses a reference: EPERM where there is no memory (it could be a device's),
        but EINVAL for INVALID_MFN, and EBUSY for another domain's frame."""
        if mfn < self.memory.total_frames:
            return HypercallError(errno.EBUSY, f"an L1 entry maps frame {mfn:#x}, which belongs to another domain")
        return HypercallError(
            errno.EINVAL if mfn == INVALID_MFN else errno.EPERM, f"an L1 entry maps frame {mfn:#x}, outside machine memory"
        )

    def put(self, mfn: int) -> None:
        """Drop a general reference; the last one frees the frame."""
        left = self.count[mfn] - 1
        self.count[mfn] = left
        if not left:
            self._free(np.array([mfn], dtype=np.uint64))

    def _free(self, mfns: Frames) -> None:
        """Frames of one owner to which nothing refers any more."""
        typed = mfns[self.type_counts[mfns] != 0]
        assert not len(typed), f"frame {typed[0]:#x} freed while typed {TYPE_NAMES[self.types[typed[0]]]}"
        owner = self.memory.owner[int(mfns[0])]
        try:
            self.flush_stale(owner, self.clock)
        except HypercallError:
            # A vCPU can't be stopped and may still use them: they stay the owner's, referred to by nothing, until the domain is gone.
            return
        self.freed(owner, len(mfns))
        self.flags_array[mfns] = 0
        self.types[mfns] = NONE
        self.memory.release(mfns)

    # -- types -----------------------------------------------------------------------------------------------------
    def get_type(self, mfn: int, kind: int) -> None:
        """Take a typed reference; the caller holds a general one. EINVAL when the frame is in use as another type or when its contents
        are no valid table of that type."""
        if self.type_count[mfn]:
            if self.type[mfn] != kind:
                raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is in use as {TYPE_NAMES[self.type[mfn]]}, wanted {TYPE_NAMES[kind]}")
            self.type_count[mfn] += 1
            return
        if self.type[mfn] != kind:
            if self.type[mfn] != NONE:
                self.flush_stale(self.memory.owner[mfn], self.stamp[mfn])
            self.type[mfn] = kind
        self.type_count[mfn] = 1
        if kind != WRITABLE:
            try:
                self.validate(mfn, kind)
            except HypercallError:
                self.type_count[mfn] = 0
                self.type[mfn] = NONE
                raise

    def put_type(self, mfn: int) -> None:
        """Drop a typed reference; the last one gives up everything that the table refers to."""
        left = self.type_count[mfn] - 1
        if not left:
            kind = self.type[mfn]
            if kind != WRITABLE:
                self.devalidate(mfn, kind)
            self.stamp[mfn] = self.clock
        self.type_count[mfn] = left

    def get_page_and_type(self, mfn: int, domid: int, kind: int) -> None:
        """Both references or neither."""
        self.get(mfn, domid)
        try:
            self.get_type(mfn, kind)
        except HypercallError:
            self.put(mfn)
            raise

    def put_page_and_type(self, mfn: int) -> None:
        """Drop both."""
        self.put_type(mfn)
        self.put(mfn)

    def any_table(self, mfns: Frames) -> bool:
        """Whether one of the frames is in use as a page table or descriptor page."""
        kinds = self.types[mfns]
        return bool(((kinds != NONE) & (kinds != WRITABLE) & (self.type_counts[mfns] != 0)).any())

    # -- whole tables ------------------------------------------------------------------------------------------------
    def get_many(self, mfns: Frames, writable: Frames, domid: int) -> None:
        """References for all entries of an L1 table at once: general for ``mfns``, writable for ``writable`` (a part of them).
        All or nothing; EINVAL, EPERM, EBUSY."""
        if not len(mfns):
            return
        if int(mfns.max()) >= self.memory.total_frames or (self.memory.owners[mfns] != domid).any():
            bad = (mfn for mfn in mfns.tolist() if mfn >= self.memory.total_frames or self.memory.owner[mfn] != domid)
            raise self.mapping_refusal(next(bad))
        kinds = self.types[writable]
        other = writable[kinds != WRITABLE]
        if len(other):
            if self.type_counts[other].any():
                raise HypercallError(errno.EBUSY, "an L1 table maps a page table or descriptor page writable")
            changed = other[self.types[other] != NONE]
            if len(changed):
                self.flush_stale(domid, int(self.stamps[changed].max()))
            self.types[other] = WRITABLE
        np.add.at(self.type_counts, writable, 1)
        np.add.at(self.counts, mfns, 1)

    def put_many(self, mfns: Frames, writable: Frames) -> None:
        """The reverse of ``get_many``."""
        if not len(mfns):
            return
        np.subtract.at(self.type_counts, writable, 1)
        self.stamps[writable[self.type_counts[writable] == 0]] = self.clock
        np.subtract.at(self.counts, mfns, 1)
        unused = np.unique(mfns[self.counts[mfns] == 0])
        if len(unused):
            self._free(unused)

    # -- pins ------------------------------------------------------------------------------------------------------
    def pin(self, mfn: int, domid: int, kind: int) -> None:
        """MMUEXT_PIN_*: hold a validated table. EINVAL when it is pinned already."""
        self.get_page_and_type(mfn, domid, kind)
        if self.flags[mfn] & PINNED:
            self.put_page_and_type(mfn)
            raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is pinned already")
        self.flags[mfn] |= PINNED

    def unpin(self, mfn: int, domid: int) -> None:
        """MMUEXT_UNPIN_TABLE. EINVAL when it is not pinned."""
        self.get(mfn, domid)
        try:
            if not self.flags[mfn] & PINNED:
                raise HypercallError(errno.EINVAL, f"frame {mfn:#x} is not pinned")
            self.flags[mfn] &= ~PINNED & 0xFF
            self.put_page_and_type(mfn)
        finally:
            self.put(mfn)
