"""The guest's physical memory: which machine frame is behind each guest frame number (GFN) of an HVM domain (Xen's arch/x86/mm/p2m.c).

The table is what the engine walks by itself (``VirtualCpu.set_physical_map``). Reference rule: every entry holds one general reference on
its frame. An entry that goes is first flushed from the TLBs of all vCPUs, then its reference is dropped; so no frame is freed while a vCPU
could still reach it. The entry of a mapped grant is the exception: its references are the grant mapping's (``grant_mapping``), which takes
the entry away before it drops them, and nothing else may.

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.machine_memory import Frames
from pyxen.hypervisor.vcpu import VcpuStuckError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

NO_MEMORY = 0xFFFFFFFF
READ_ONLY = 1 << 31
FRAME = READ_ONLY - 1
#: Guest physical addresses have this many bits (CPUID leaf 0x80000008).
ADDRESS_BITS = 36
MAX_FRAMES = 1 << ADDRESS_BITS - 12
#: 4 GiB: RAM, and the special pages below its end.
FIRST_FRAMES = 1 << 20
INVALID_GFN = (1 << 64) - 1
#: Entries of a longer table that are cleared before others get the lock.
FRAMES_PER_BREATH = 1 << 18


class PhysicalMap:
    """The P2M of one domain. It grows as GFNs are used, by doubling, up to ``MAX_FRAMES``."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._hypervisor = domain.hypervisor
        self._entries: npt.NDArray[np.uint32] = np.full(FIRST_FRAMES, NO_MEMORY, dtype=np.uint32)
        #: GFNs where grants are mapped.
        self._grants: set[int] = set()

    def attach_all(self) -> None:
        """Have all vCPUs of the domain, none of which is in the guest now, use the table as it is."""
        for vcpu in self._domain.vcpus:
            vcpu.cpu.set_physical_map(self._entries.ctypes.data, len(self._entries))

    def reach(self, last_gfn: int) -> None:
        """Make room for a GFN, before anything else is changed: others get the lock meanwhile. EINVAL for one that no guest physical
        address has."""
        if last_gfn >= MAX_FRAMES:
            raise HypercallError(errno.EINVAL, f"guest frame {last_gfn:#x} is beyond {ADDRESS_BITS} bits of physical address")
        if last_gfn < len(self._entries):
            return
        entries: npt.NDArray[np.uint32] = np.empty(1 << last_gfn.bit_length(), dtype=np.uint32)
        for first in range(0, len(entries), FRAMES_PER_BREATH):
            entries[first : first + FRAMES_PER_BREATH] = NO_MEMORY
            self._hypervisor.breathe(self._domain.domid)
        if len(self._entries) >= len(entries):  # somebody else was faster
            return
        entries[: len(self._entries)] = self._entries
        for vcpu in self._domain.vcpus:
            self._hypervisor.stop_briefly(vcpu, None)
        self._entries = entries
        self.attach_all()

    # -- looking up ----------------------------------------------------------------------------------------------------
    def entry(self, untrusted_gfn: int) -> int | None:
        """Frame and ``READ_ONLY`` bit; None where there is no memory."""
        if untrusted_gfn >= len(self._entries):
            return None
        entry = int(self._entries[untrusted_gfn])
        return None if entry == NO_MEMORY else entry

    def frame(self, untrusted_gfn: int) -> int:
        """The machine frame. EINVAL where there is none of the domain's."""
        entry = self.entry(untrusted_gfn)
        if entry is None or untrusted_gfn in self._grants:
            raise HypercallError(errno.EINVAL, f"there is no memory of the domain's at guest frame {untrusted_gfn:#x}")
        return entry & FRAME

    def is_grant(self, gfn: int) -> bool:
        """Whether a grant is mapped at a GFN."""
        return gfn in self._grants

    def machine_address(self, address: int, *, write: bool) -> int | None:
        """Of the octet at a guest physical address; None where there is no memory, or none that may be written."""
        entry = self.entry(address >> 12)
        if entry is None or (write and entry & READ_ONLY):
            return None
        return (entry & FRAME) << 12 | address & 0xFFF

    def last_gfn(self) -> int:
        """The highest GFN with memory, 0 for none."""
        used = np.flatnonzero(self._entries != NO_MEMORY)
        return int(used[-1]) if len(used) else 0

    # -- changing ------------------------------------------------------------------------------------------------------
    def populate(self, gfns: Frames, mfns: Frames) -> None:
        """Put frames of the domain's at GFNs that are empty. EINVAL for GFNs out of range or named twice, EEXIST for one that is in use;
        nothing is changed then."""
        if not len(gfns):
            return
        self.reach(int(gfns.max()))
        if len(np.unique(gfns)) != len(gfns):
            raise HypercallError(errno.EINVAL, "a guest frame is named twice")
        if (self._entries[gfns] != NO_MEMORY).any():
            raise HypercallError(errno.EEXIST, "there is memory at one of these guest frames")
        frames = self._hypervisor.frames
        frames.counts[mfns] += 1
        self._hypervisor.m2p_array[mfns] = gfns
        self._entries[gfns] = mfns.astype(np.uint32)

    def place(self, gfn: int, mfn: int, *, writable: bool = True) -> None:
        """Put one frame at a GFN, instead of what was there; from the GFN it had before, it goes. EINVAL, EPERM (not the domain's),
        ENXIO (a grant is there)."""
        self.reach(gfn)
        frames, domain, m2p = self._hypervisor.frames, self._domain, self._hypervisor.m2p
        if gfn in self._grants:
            raise HypercallError(errno.ENXIO, f"a grant is mapped at guest frame {gfn:#x}")
        if self.entry(gfn) == (mfn if writable else mfn | READ_ONLY):
            return
        frames.get(mfn, domain.domid)
        old = [self._take(gfn)]
        if (before := m2p[mfn]) != gfn and before not in self._grants and self._holds(before, mfn):
            old.append(self._take(before))
        m2p[mfn] = gfn
        self._entries[gfn] = mfn if writable else mfn | READ_ONLY
        self._give_back([taken for taken in old if taken is not None])

    def remove(self, gfn: int) -> None:
        """Take the memory at a GFN away. ENOENT where there is none, or a grant."""
        if self.entry(gfn) is None or gfn in self._grants:
            raise HypercallError(errno.ENOENT, f"there is no memory of the domain's at guest frame {gfn:#x}")
        self.remove_all([gfn])

    def place_grant(self, gfn: int, mfn: int, *, writable: bool) -> None:
        """Map a grant, whose references the caller has taken. RAM that was at the GFN is reachable no more, but stays the domain's. EINVAL
        out of range, or where a grant is mapped already."""
        self.reach(gfn)
        if gfn in self._grants:
            raise HypercallError(errno.EINVAL, f"a grant is mapped at guest frame {gfn:#x}")
        old = self._take(gfn)
        self._entries[gfn] = mfn if writable else mfn | READ_ONLY
        self._grants.add(gfn)
        if old is not None:
            self._give_back([old])

    def take_grant(self, gfn: int, mfn: int, *, writable: bool) -> bool:
        """Take a mapped grant away, if it is of that frame and with these rights, so that its references are of the kind that the caller
        drops when it has flushed. -> whether it was."""
        if gfn not in self._grants or self.entry(gfn) != (mfn if writable else mfn | READ_ONLY):
            return False
        self._grants.remove(gfn)
        self._entries[gfn] = NO_MEMORY
        return True

    def remove_all(self, gfns: list[int]) -> None:
        """As ``remove`` for several, with one flush. GFNs without memory are passed over."""
        taken = [self._take(gfn) for gfn in gfns]
        self._give_back([mfn for mfn in taken if mfn is not None])

    def _holds(self, gfn: int, mfn: int) -> bool:
        entry = self.entry(gfn)
        return entry is not None and entry & FRAME == mfn

    def _take(self, gfn: int) -> int | None:
        """Clear an entry that is no grant's. -> its frame, whose reference is now the caller's."""
        entry = self.entry(gfn)
        if entry is None or gfn in self._grants:
            return None
        mfn = entry & FRAME
        self._entries[gfn] = NO_MEMORY
        if self._hypervisor.m2p[mfn] == gfn:
            self._hypervisor.m2p[mfn] = INVALID_GFN
        return mfn

    def _give_back(self, mfns: list[int]) -> None:
        """Drop the references of entries that are gone, when no TLB knows them any more."""
        if not mfns:
            return

        def put() -> None:
            self._hypervisor.frames.put_many(np.array(mfns, dtype=np.uint64), np.empty(0, dtype=np.uint64))

        try:
            self._domain.flush_tlbs()
        except VcpuStuckError:
            self._domain.when_stopped.append(put)
        else:
            put()
