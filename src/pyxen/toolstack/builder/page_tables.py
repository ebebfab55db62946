"""The initial page tables of a PV64 domain: which tables there are, and what is in them.

First the tables are counted, since the layout needs their number before any frame is known; then, with the frames known, filled in.
A table of level n maps 512 entries of level n-1; level 4 is the top. A *region* is the number of a table among all
tables of its level in the 48-bit address space.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from pyxen.hypervisor.dom0_interface import Frames

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
ENTRIES = 512
TOP_LEVEL = 4

_PRESENT, _WRITABLE, _USER, _ACCESSED, _DIRTY = 1, 2, 4, 0x20, 0x40
_NO_EXECUTE = 1 << 63
#: What libxenguest writes. Xen sets the user bit in each entry of a PV64 guest, whose kernel does not run in ring 0.
_LEAF_FLAGS = _PRESENT | _WRITABLE | _USER | _ACCESSED
_TABLE_FLAGS = _PRESENT | _WRITABLE | _USER | _ACCESSED | _DIRTY

_VIRTUAL_MASK = (1 << 48) - 1
_INDEX_SHIFT = 9

Table = tuple[int, int]  #: level, region


@dataclass(frozen=True)
class Mapping:
    """``pages`` pages from the virtual address ``start`` (page-aligned) map the PFNs from ``first_pfn`` on."""

    start: int
    pages: int
    first_pfn: int


def _regions(start: int, end: int, level: int) -> range:
    shift = PAGE_SHIFT + _INDEX_SHIFT * level
    return range((start & _VIRTUAL_MASK) >> shift, ((end - 1 & _VIRTUAL_MASK) >> shift) + 1)


def tables_for(start: int, end: int, existing: Iterable[Table] = ()) -> list[Table]:
    """The tables that a mapping of [start, end) needs in addition to the existing ones, the top level first."""
    have = frozenset(existing)
    needed = ((level, region) for level in range(TOP_LEVEL, 0, -1) for region in _regions(start, end, level))
    return [table for table in needed if table not in have]


class PageTables:
    """The content of the tables. ``pfns`` gives each table its place; ``frames`` is the domain's P2M."""

    def __init__(self, pfns: dict[Table, int], frames: Frames) -> None:
        self._frames = frames
        self._pfns = pfns
        self._rows = {table: row for row, table in enumerate(pfns)}
        self._content = np.zeros((len(pfns), ENTRIES), dtype=np.uint64)
        for (level, region), pfn in pfns.items():
            if level < TOP_LEVEL:
                parent = self._rows[level + 1, region >> _INDEX_SHIFT]
                self._content[parent, region % ENTRIES] = int(frames[pfn]) << PAGE_SHIFT | _TABLE_FLAGS

    def map(self, mapping: Mapping, *, executable: Iterable[range] = (), read_only: Iterable[range] = ()) -> None:
        """Fills in the leaves. ``executable`` and ``read_only`` are ranges of PFNs; the rest is writable and not executable."""
        flags = np.full(mapping.pages, _LEAF_FLAGS | _NO_EXECUTE, dtype=np.uint64)
        for pfns in executable:
            flags[_within(pfns, mapping)] &= np.uint64(~_NO_EXECUTE & (1 << 64) - 1)
        for pfns in read_only:
            flags[_within(pfns, mapping)] &= np.uint64(~_WRITABLE & (1 << 64) - 1)
        frames = self._frames[mapping.first_pfn : mapping.first_pfn + mapping.pages]
        entries = (mapping.start & _VIRTUAL_MASK) // PAGE_SIZE + np.arange(mapping.pages, dtype=np.int64)
        regions = _regions(mapping.start, mapping.start + mapping.pages * PAGE_SIZE, 1)
        rows = np.array([self._rows[1, region] for region in regions])
        self._content[rows[entries // ENTRIES - regions.start], entries % ENTRIES] = frames << np.uint64(PAGE_SHIFT) | flags

    def content(self, tables: Iterable[Table]) -> memoryview:
        """The bytes of these tables, one after the other."""
        rows = [self._rows[table] for table in tables]
        return memoryview(self._content[rows].tobytes())


def _within(pfns: range, mapping: Mapping) -> slice:
    return slice(max(0, pfns.start - mapping.first_pfn), max(0, pfns.stop - mapping.first_pfn))
