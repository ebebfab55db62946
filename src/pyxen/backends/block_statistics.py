"""What a disk has done, as Linux's blkback counts it in /sys (rd_req, wr_req, rd_sect, wr_sect)."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class BlockStatistics:
    """Requests that were done, and sectors of 512 octets, since the device appeared. Any thread may count."""

    reads: int = 0
    writes: int = 0
    read_sectors: int = 0
    written_sectors: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, sectors: int, *, reading: bool) -> None:
        """One more request."""
        with self._lock:
            if reading:
                self.reads += 1
                self.read_sectors += sectors
            else:
                self.writes += 1
                self.written_sectors += sectors
