"""Machine memory: one flat, sparse buffer of 4 KiB frames, their owners, and the allocator.

A frame is named by its MFN (index in the buffer). The buffer is what every engine maps as physical memory, and what Python reads
and writes without copying. Frames that nobody owns hold no host memory.

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import ctypes
import errno
import mmap

import numpy as np
import numpy.typing as npt

from pyxen.hypervisor.dom0_interface import HypercallError

PAGE_SHIFT = 12
PAGE_SIZE = 4096
WORDS_PER_PAGE = 512

#: Owners that are not domains (xen.h: DOMID_XEN; and a value that no domain has).
OWNER_XEN = 0x7FF2
OWNER_NONE = 0xFFFF

Frames = npt.NDArray[np.uint64]


class MachineMemory:
    """``total_frames`` frames, frame 0 never handed out (an MFN of 0 stays an error everywhere).

    ``words`` (format 'Q'), ``doublewords`` ('I') and ``octets`` ('B') are views of all memory; ``tables[mfn]`` is one frame as 512 numpy
    words.
    ``owners`` (scalar view ``owner``) holds a domain id per frame.
    """

    def __init__(self, total_bytes: int) -> None:
        if total_bytes < 64 << 20 or total_bytes % PAGE_SIZE:
            raise ValueError("machine memory must be at least 64 MiB and a multiple of 4 KiB")
        self.total_frames = total_bytes >> PAGE_SHIFT
        # Private, so that the host backs it with large pages where it has them; and no child process ever has it.
        self._map = mmap.mmap(-1, total_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0))
        self._map.madvise(mmap.MADV_DONTFORK)
        self._map.madvise(mmap.MADV_HUGEPAGE)
        self._anchor = (ctypes.c_char * total_bytes).from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        self.octets = memoryview(self._map)
        self.words = self.octets.cast("Q")
        self.doublewords = self.octets.cast("I")
        self.tables: Frames = np.frombuffer(self._map, dtype=np.uint64).reshape(self.total_frames, WORDS_PER_PAGE)
        #: Each frame as 4096 octets.
        self.pages = np.frombuffer(self._map, dtype=np.uint8).reshape(self.total_frames, PAGE_SIZE)
        self.owners = np.full(self.total_frames, OWNER_NONE, dtype=np.uint16)
        self.owner = self.owners.data
        self._fresh = 1  # frames from here on were never handed out
        self._recycled: list[Frames] = []
        self.free_frames = self.total_frames - 1

    def allocate(self, owner: int, count: int) -> Frames:
        """``count`` zeroed frames for ``owner``. ENOMEM, and nothing taken, when there are not so many."""
        if count < 0 or count > self.free_frames:
            raise HypercallError(errno.ENOMEM, f"{count} frames wanted, {self.free_frames} free")
        parts: list[Frames] = []
        wanted = count
        while wanted and self._recycled:
            last = self._recycled.pop()
            if len(last) > wanted:
                self._recycled.append(last[wanted:])
                last = last[:wanted]
            parts.append(last)
            wanted -= len(last)
        if wanted:
            parts.append(np.arange(self._fresh, self._fresh + wanted, dtype=np.uint64))
            self._fresh += wanted
        frames: Frames = np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)
        self.owners[frames] = owner
        self.free_frames -= count
        return frames

    def allocate_one(self, owner: int) -> int:
        """One zeroed frame."""
        return int(self.allocate(owner, 1)[0])

    def release(self, frames: Frames) -> None:
        """Scrub frames and give them back to the allocator. The caller has made sure that nothing refers to them any more."""
        if not len(frames):
            return
        frames = np.sort(frames)
        self._scrub(frames)
        self.owners[frames] = OWNER_NONE
        self._recycled.append(frames)
        self.free_frames += len(frames)

    def _scrub(self, frames: Frames) -> None:
        """Zero by forgetting: scrubbed memory goes back to the host machine."""
        breaks = np.flatnonzero(np.diff(frames) != 1) + 1
        for run in np.split(frames, breaks):
            self._map.madvise(mmap.MADV_DONTNEED, int(run[0]) << PAGE_SHIFT, len(run) << PAGE_SHIFT)

    def page(self, mfn: int) -> memoryview:
        """A writable view of one frame, 4096 octets."""
        return self.octets[mfn << PAGE_SHIFT : (mfn + 1) << PAGE_SHIFT]

    def close(self) -> None:
        """Give the buffer back. Views that are still alive elsewhere keep it mapped until they go."""
        self.free_frames = 0
