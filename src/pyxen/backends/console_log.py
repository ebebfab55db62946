"""A console's log file, bounded in size."""

from __future__ import annotations

import os
from pathlib import Path


class ConsoleLog:
    """Appends output to ``path``. A file that would pass ``limit`` bytes becomes ``path.1`` (the previous one is dropped), so no guest
    fills the disk.

    A full disk stops the log, not the console: what can't be written is counted in ``lost``.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self.path = path
        self.lost = 0
        self._limit = limit
        self._open()

    def _open(self) -> None:
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def write(self, data: bytes) -> None:
        try:
            if self._size + len(data) > self._limit:
                self._rotate()
            written = os.write(self._descriptor, data)
        except OSError:
            written = 0
        self._size += written
        self.lost += len(data) - written

    def _rotate(self) -> None:
        os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        previous = self._descriptor
        self._open()
        os.close(previous)

    def close(self) -> None:
        os.close(self._descriptor)
