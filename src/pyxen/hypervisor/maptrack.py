"""Maptrack: what one domain has mapped of other domains' grants, by handle (Xen's common/grant_table.c).

Handles are reused in the order in which they were given back. All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyxen.abi.grant_table import GNTST_bad_handle, GNTST_no_space
from pyxen.hypervisor.grant_entries import GrantError

if TYPE_CHECKING:
    from pyxen.hypervisor.grant_table import GrantTable

ENTRIES_PER_FRAME = 256
#: What Xen gives a domain whose configuration does not say (gnttab_max_maptrack_frames).
DEFAULT_FRAMES = 1024


@dataclass(slots=True)
class Mapping:
    """One mapped grant. ``flags``: the GNTMAP_* that still hold; ``frame``: the MFN that was mapped."""

    table: GrantTable
    reference: int
    flags: int
    frame: int


class Maptrack:
    """The handles of one domain, at most ``max_frames`` times 256."""

    def __init__(self, max_frames: int) -> None:
        self.max_frames = max_frames
        self._mappings: list[Mapping | None] = []
        self._free: deque[int] = deque()
        self._in_use = 0

    def __len__(self) -> int:
        return self._in_use

    def __iter__(self) -> Iterator[Mapping]:
        return (mapping for mapping in self._mappings if mapping is not None)

    def reserve(self) -> None:
        """Make sure that ``add`` has a handle to give. GNTST_no_space. As in Xen, one handle always stays free."""
        if len(self._free) > 1:
            return
        size = len(self._mappings)
        if size // ENTRIES_PER_FRAME >= self.max_frames:
            raise GrantError(GNTST_no_space, "no maptrack handle is left")
        self._mappings.extend([None] * ENTRIES_PER_FRAME)
        self._free.extendleft(range(size + ENTRIES_PER_FRAME - 1, size - 1, -1))

    def add(self, mapping: Mapping) -> int:
        """-> its handle. After ``reserve``."""
        handle = self._free.popleft()
        self._mappings[handle] = mapping
        self._in_use += 1
        return handle

    def get(self, untrusted_handle: int) -> Mapping:
        """GNTST_bad_handle."""
        mapping = self._mappings[untrusted_handle] if 0 <= untrusted_handle < len(self._mappings) else None
        if mapping is None:
            raise GrantError(GNTST_bad_handle, f"maptrack handle {untrusted_handle:#x}")
        return mapping

    def remove(self, handle: int) -> None:
        """The handle is free for a new mapping."""
        self._mappings[handle] = None
        self._free.append(handle)
        self._in_use -= 1

    def clear(self) -> None:
        """The domain is dead."""
        self._mappings.clear()
        self._free.clear()
        self._in_use = 0
