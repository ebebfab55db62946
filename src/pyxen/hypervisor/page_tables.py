"""Direct paging: a PV guest writes its page tables through these checks, and only through them.

An entry may refer only to frames of its domain; a table's frame has the type of its level while anything refers to it, so no guest has a
writable mapping of it; Xen's slots of an L4 table belong to Xen. The rules and errno values are Xen's (arch/x86/mm.c).

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pyxen.engine.interface import Engine
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1, L2, L4, SEGMENT_DESCRIPTORS, FrameTable
from pyxen.hypervisor.machine_memory import MachineMemory
from pyxen.hypervisor.preemption import Slice
from pyxen.hypervisor.vcpu import VcpuStuckError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

PRESENT, RW, USER, ACCESSED, DIRTY, PSE = 1, 2, 4, 0x20, 0x40, 0x80
NX = 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
#: _PAGE_GNTTAB: an L1 entry that maps a grant. Only Xen sets it; the references of such an entry are another domain's business, too.
GRANTED = 1 << 62
#: Cache attributes and PSE/PAT are Xen's to set, GLOBAL too but in an L1 entry.
DISALLOWED = 0x198
L1_DISALLOWED = 0x98 | GRANTED
#: Xen runs a 64-bit guest's kernel in ring 3, so every present entry gets the user bit (adjust_guest_l1e and its like), and guests see it.
ADJUSTED = USER

FIRST_XEN_SLOT, LAST_XEN_SLOT = 256, 271  #: L4 slots that Xen keeps (xen-x86_64.h: HYPERVISOR_VIRT_START..END)
M2P_SLOT, PER_DOMAIN_SLOT = 256, 260

#: Tables validated or released before others get the lock, if their time is not over sooner.
TABLES_PER_BREATH = 16

_ENTRY_ADDRESS = np.uint64(ADDRESS)
_SHIFT = np.uint64(12)


class PageTables:
    """Checks and reference counts of page-table entries. One for the whole machine."""

    def __init__(self, memory: MachineMemory, frames: FrameTable, m2p_entry: int, breathe: Callable[[int], None], engine: Engine) -> None:
        """``m2p_entry``: the L4 entry that maps the machine-to-physical table, the same in every address space. ``breathe(domid)`` gives up
        the lock for a moment, between two tables of a tree. ``engine`` may do the plain cases natively."""
        self._breathe = breathe
        self._engine = engine
        self._tables_since_breath = 0
        self._slice = Slice()
        self._memory = memory
        self._words = memory.words
        self._frames = frames
        self._m2p_entry = m2p_entry
        self.domains: dict[int, Domain] = {}
        frames.validate = self._validate
        frames.devalidate = self._devalidate

    # -- one entry -------------------------------------------------------------------------------------------------
    def _get_entry(self, level: int, table: int, entry: int, domid: int) -> None:
        """Take the references of one present entry of the ``level`` table in frame ``table``."""
        mfn = (entry & ADDRESS) >> 12
        if level == L1:
            if entry & L1_DISALLOWED:
                raise HypercallError(errno.EINVAL, f"L1 entry {entry:#x} has reserved bits")
            try:
                self._frames.get(mfn, domid)
            except HypercallError:
                raise self._frames.mapping_refusal(mfn) from None
            if entry & RW:
                try:
                    self._frames.get_type(mfn, 6)
                except HypercallError as refusal:
                    self._frames.put(mfn)
                    raise HypercallError(errno.EBUSY, refusal.reason) from None
            return
        self._check_flags(level, entry)
        if mfn != table:
            try:
                self._frames.get_page_and_type(mfn, domid, level - 1)
            except HypercallError as refusal:
                if refusal.errno != errno.EINVAL or not self._get_linear(level, table, entry, domid):
                    raise
        elif entry & RW:
            raise HypercallError(errno.EINVAL, f"L{level} entry {entry:#x} would make its own table writable")

    def _get_linear(self, level: int, table: int, entry: int, domid: int) -> bool:
        """Whether an entry may name a table of its own level: a linear page table (get_l4_linear_pagetable and its like).

        It is read-only, the other table is validated already, and of two tables only one names the other: a table that is named names
        none itself, so there are no chains. An entry that names its own table takes no reference and does not count.
        """
        mfn, frames = (entry & ADDRESS) >> 12, self._frames
        if entry & RW or mfn >= self._memory.total_frames or not frames.type_count[mfn] or frames.type[mfn] != level:
            return False
        linear = self.domains[domid].linear_tables
        here, there = linear.get(table, 0), linear.get(mfn, 0)
        if here < 0 or there > 0:
            return False
        frames.get_page_and_type(mfn, domid, level)
        linear[table], linear[mfn] = here + 1, there - 1
        return True

    def _put_linear(self, table: int, mfn: int) -> None:
        linear = self.domains[self._memory.owner[table]].linear_tables
        for frame, step in ((table, -1), (mfn, 1)):
            linear[frame] += step
            if not linear[frame]:
                del linear[frame]

    def _put_entry(self, level: int, table: int, entry: int) -> None:
        mfn = (entry & ADDRESS) >> 12
        if level == L1:
            if entry & RW:
                self._frames.put_type(mfn)
            self._frames.put(mfn)
        elif mfn != table:
            if self._frames.type[mfn] == level:
                self._put_linear(table, mfn)
            self._frames.put_page_and_type(mfn)

    def write_entry(
        self, domain: Domain, address: int, entry: int, *, preserve_accessed: bool = False, expected: int | None = None
    ) -> bool:
        """Replace the entry at machine ``address``, which lies in a validated table of ``domain``.

        With ``expected`` the write happens only if that is the present value (-> False otherwise: another vCPU has set the accessed or
        dirty bit meanwhile). EINVAL, EPERM, EBUSY as the new entry deserves; the old one then stays.
        """
        level = self._frames.type[address >> 12]
        if level == L4 and FIRST_XEN_SLOT <= (address & 0xFFF) >> 3 <= LAST_XEN_SLOT:
            raise HypercallError(errno.EINVAL, "the L4 slot is Xen's")
        words = self._words
        index = address >> 3
        old = words[index]
        if expected is not None and old != expected:
            return False
        if preserve_accessed:
            entry |= old & (ACCESSED | DIRTY)
        if entry & PRESENT:
            entry |= ADJUSTED
        if not old & PRESENT:
            if entry & PRESENT:
                self._get_entry(level, address >> 12, entry, domain.domid)
            words[index] = entry
            return True
        same_target = entry & PRESENT and not (old ^ entry) & (ADDRESS | RW)
        if same_target:
            kept = old & GRANTED if level == L1 else 0
            self._check_flags(level, entry & ~kept)
            entry |= kept
        elif entry & PRESENT:
            self._get_entry(level, address >> 12, entry, domain.domid)
        replaced = self._replace(domain, address, old, entry, preserve_accessed=preserve_accessed, exactly=expected is not None)
        if not same_target:
            if replaced and level == L1:
                self.put_l1_entry(domain, old)
            elif replaced:
                self._put_entry(level, address >> 12, old)
            elif entry & PRESENT:
                self._put_entry(level, address >> 12, entry)
        return replaced

    def _replace(self, domain: Domain, address: int, old: int, entry: int, *, preserve_accessed: bool, exactly: bool) -> bool:
        """Store ``entry``, losing no accessed or dirty bit that another vCPU sets at this moment. ``exactly``: give up if one does."""
        if len(domain.vcpus) == 1:
            self._words[address >> 3] = entry
            return True
        while not domain.hypervisor.engine.compare_exchange(address, old, entry):
            if exactly:
                return False
            old = self._words[address >> 3]
            if preserve_accessed:
                entry |= old & (ACCESSED | DIRTY)
        return True

    def exchange_l1_entry(self, domain: Domain, address: int, entry: int) -> int:
        """Replace an L1 entry without looking at references: the caller has taken those of the new one. -> the old one, whose references
        are the caller's now."""
        old = self._words[address >> 3]
        while not domain.hypervisor.engine.compare_exchange(address, old, entry):
            old = self._words[address >> 3]
        return old

    def put_l1_entry(self, domain: Domain, entry: int) -> None:
        """Drop the references of an L1 entry that was in a table of ``domain``. Of a grant mapping no TLB of the domain keeps a trace."""
        if not entry & PRESENT:
            return
        if not entry & GRANTED:
            self._put_entry(L1, 0, entry)
            return
        try:
            domain.flush_tlbs()
        except VcpuStuckError:
            domain.when_stopped.append(lambda: self._drop_granted(domain, entry))
        else:
            self._drop_granted(domain, entry)

    def _drop_granted(self, domain: Domain, entry: int) -> None:
        mfn = (entry & ADDRESS) >> 12
        self.domains[self._memory.owner[mfn]].grant_table.drop_frame(mfn, domain.domid, writable=bool(entry & RW))

    @staticmethod
    def _check_flags(level: int, entry: int) -> None:
        if entry & (L1_DISALLOWED if level == L1 else DISALLOWED):
            what = "reserved bits" if level == L1 else "reserved bits (superpages are refused)"
            raise HypercallError(errno.EINVAL, f"L{level} entry {entry:#x} has {what}")

    # -- whole tables (called by FrameTable when a type appears or goes) ---------------------------------------------
    def _validate(self, mfn: int, kind: int) -> None:
        domain = self.domains.get(self._memory.owner[mfn])
        if domain is None:
            raise HypercallError(errno.EINVAL, f"frame {mfn:#x} belongs to no domain")
        if kind == SEGMENT_DESCRIPTORS:
            domain.validate_descriptor_page(mfn)
        elif domain.native_gate and self._engine.validate(domain.native_gate, mfn, kind):
            return
        elif kind == L1:
            self._validate_l1(mfn, domain.domid)
        else:
            self._validate_upper(mfn, kind, domain)

    def _validate_l1(self, mfn: int, domid: int) -> None:
        table = self._memory.tables[mfn]
        entries = table[(table & np.uint64(PRESENT)) != 0]
        if (entries & np.uint64(L1_DISALLOWED)).any():
            raise HypercallError(errno.EINVAL, f"L1 table {mfn:#x} has entries with reserved bits")
        mfns = (entries & _ENTRY_ADDRESS) >> _SHIFT
        self._frames.get_many(mfns, mfns[(entries & np.uint64(RW)) != 0], domid)
        _adjust(table)

    def _validate_upper(self, mfn: int, level: int, domain: Domain) -> None:
        table = self._memory.tables[mfn]
        taken: list[int] = []
        try:
            for slot in np.flatnonzero(table & np.uint64(PRESENT)).tolist():
                if level == L4 and FIRST_XEN_SLOT <= slot <= LAST_XEN_SLOT:
                    continue
                entry = int(table[slot])
                self._get_entry(level, mfn, entry, domain.domid)
                taken.append(entry)
                self._count_table(domain.domid)
        except HypercallError:
            for entry in taken:
                self._put_entry(level, mfn, entry)
            raise
        _adjust(table)
        if level == L4:
            table[FIRST_XEN_SLOT : LAST_XEN_SLOT + 1] = 0
            table[M2P_SLOT] = self._m2p_entry
            table[PER_DOMAIN_SLOT] = domain.per_domain_entry

    def _devalidate(self, mfn: int, kind: int) -> None:
        if kind == SEGMENT_DESCRIPTORS:
            return
        domain = self.domains[self._memory.owner[mfn]]
        if domain.native_gate and self._engine.devalidate(domain.native_gate, mfn, kind):
            return
        table = self._memory.tables[mfn]
        if kind == L4:
            table[FIRST_XEN_SLOT : LAST_XEN_SLOT + 1] = 0
        present = table[(table & np.uint64(PRESENT)) != 0]
        if kind == L1:
            granted = (present & np.uint64(GRANTED)) != 0
            for entry in present[granted].tolist():
                self.put_l1_entry(domain, entry)
            present = present[~granted]
            mfns = (present & _ENTRY_ADDRESS) >> _SHIFT
            self._frames.put_many(mfns, mfns[(present & np.uint64(RW)) != 0])
            return
        for entry in present.tolist():
            self._put_entry(kind, mfn, entry)
            self._count_table(domain.domid)

    def _count_table(self, domid: int) -> None:
        """One more table of a tree is done. Its frame keeps its type meanwhile, so nobody can change what is being checked."""
        self._tables_since_breath += 1
        if self._tables_since_breath == 1:
            self._slice = Slice()
        if self._tables_since_breath >= TABLES_PER_BREATH or self._slice.over:
            self._tables_since_breath = 0
            self._breathe(domid)

    # -- finding entries -------------------------------------------------------------------------------------------
    def l1_entry_address(self, root: int, linear: int) -> int | None:
        """Machine address of the L1 entry that maps ``linear`` in the address space at machine address ``root``; None when there is no L1
        table for it, or the address is Xen's."""
        if FIRST_XEN_SLOT <= (linear >> 39) & 0x1FF <= LAST_XEN_SLOT:
            return None
        words = self._words
        entry = words[(root + ((linear >> 36) & 0xFF8)) >> 3]
        if not entry & PRESENT:
            return None
        entry = words[((entry & ADDRESS) + ((linear >> 27) & 0xFF8)) >> 3]
        if not entry & PRESENT:
            return None
        entry = words[((entry & ADDRESS) + ((linear >> 18) & 0xFF8)) >> 3]
        if not entry & PRESENT:
            return None
        return (entry & ADDRESS) + ((linear >> 9) & 0xFF8)


def _adjust(table: npt.NDArray[np.uint64]) -> None:
    table[(table & np.uint64(PRESENT)) != 0] |= np.uint64(ADJUSTED)


__all__ = ["ACCESSED", "ADDRESS", "DIRTY", "GRANTED", "L2", "NX", "PRESENT", "PSE", "RW", "USER", "PageTables"]
