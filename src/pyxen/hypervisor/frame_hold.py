"""What Domain 0's mappings of one guest frame hold, by foreign mapping or by grant."""

from __future__ import annotations

from pyxen.hypervisor.frame_table import WRITABLE, FrameTable


class FrameHold:
    """One general reference for each mapping, and a typed one from the first writable mapping to the last unmapping: a frame that Domain 0
    may write, with content that a guest chose, must not become a page table or descriptor page meanwhile."""

    def __init__(self, mfn: int) -> None:
        self.mfn = mfn
        self.times = 0
        #: Of each mapping that was not taken back: whether it is writable. ``times`` counts also those still in use (``frame_views``).
        self.accesses: list[bool] = []
        self.writable = False

    def take(self, frames: FrameTable, domid: int, *, writable: bool) -> None:
        """One more mapping. EINVAL when it is to be writable and the frame is a table, or another domain's; then nothing changes."""
        if writable and not self.writable:
            frames.get_page_and_type(self.mfn, domid, WRITABLE)
            self.writable = True
        else:
            frames.get(self.mfn, domid)
        self.times += 1

    def drop(self, frames: FrameTable) -> None:
        """One mapping less. The frame may be freed."""
        self.times -= 1
        if not self.times and self.writable:
            self.writable = False
            frames.put_type(self.mfn)
        frames.put(self.mfn)
