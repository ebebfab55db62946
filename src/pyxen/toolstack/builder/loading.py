"""Writing into the memory of a domain that is being built, by its own page numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, Frames
from pyxen.toolstack.builder.page_tables import PAGE_SIZE

#: What xl adds to a domain's maximum (LIBXL_MAXMEM_CONSTANT of libxl), in KiB.
_MAXIMUM_SLACK_KIB = 1024
_KIB_PER_PAGE = PAGE_SIZE >> 10


def maximum_pages(pages: int, max_memory_kib: int | None) -> int:
    """The most that a domain may have which starts with ``pages`` and may balloon to ``max_memory_kib``."""
    most_kib = max(max_memory_kib or 0, pages * _KIB_PER_PAGE)
    return (most_kib + _MAXIMUM_SLACK_KIB) // _KIB_PER_PAGE


class GuestMemory:
    """``frames[n]`` is the MFN of the domain's page ``n``."""

    def __init__(self, hypercalls: Dom0Hypercalls, domid: int, frames: Frames) -> None:
        self._hypercalls = hypercalls
        self._domid = domid
        self._frames = frames

    def write(self, pfn: int, data: bytes | memoryview) -> None:
        """Whole pages from ``pfn`` on; the rest of the last page stays as it is."""
        frames = self._frames[pfn : pfn + -(-len(data) // PAGE_SIZE)]
        self._hypercalls.write_foreign(self._domid, frames, data)

    def _write_within_page(self, pfn: int, offset: int, data: memoryview) -> None:
        mfn = int(self._frames[pfn])
        page = self._hypercalls.map_foreign(self._domid, mfn)
        try:
            page[offset : offset + len(data)] = data
        finally:
            page.release()
            self._hypercalls.unmap_foreign(self._domid, mfn)

    def load(self, address: int, data: memoryview) -> None:
        """A kernel's segment at a pseudo-physical address. Segments may begin and end within a page, and share it with the next; then only
        their own bytes are touched."""
        if offset := address % PAGE_SIZE:
            self._write_within_page(address // PAGE_SIZE, offset, data[: PAGE_SIZE - offset])
            data, address = data[PAGE_SIZE - offset :], address + PAGE_SIZE - offset
        first_pfn = address // PAGE_SIZE
        for pages in _pages_with_content(data):
            self.write(first_pfn + pages.start, data[pages.start * PAGE_SIZE : pages.stop * PAGE_SIZE])
        if tail := len(data) % PAGE_SIZE:
            self._write_within_page(first_pfn + len(data) // PAGE_SIZE, 0, data[-tail:])


def _pages_with_content(data: memoryview) -> Iterator[range]:
    """Runs of whole pages that are not all zero. New frames are zero, and a page that nobody wrote to costs the host no memory; a
    third of Debian's vmlinux is zeros."""
    whole = len(data) // PAGE_SIZE
    words = np.frombuffer(data[: whole * PAGE_SIZE], dtype=np.uint64).reshape(whole, PAGE_SIZE // 8)
    edges = np.flatnonzero(np.diff(words.any(axis=1), prepend=False, append=False))
    for start, stop in edges.reshape(-1, 2):
        yield range(int(start), int(stop))
