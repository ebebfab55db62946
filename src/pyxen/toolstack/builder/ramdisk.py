"""The ramdisk: a file that is copied into the domain's memory as it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pyxen.toolstack.builder.errors import BuilderError, RamdiskError
from pyxen.toolstack.builder.kernel_image import open_regular_file

#: A multiple of the page size.
_CHUNK = 16 << 20


@dataclass(frozen=True)
class Ramdisk:
    """A checked ramdisk. ``size`` in bytes."""

    path: Path
    size: int

    def chunks(self) -> Iterator[bytes]:
        """Its content in pieces that are whole pages, but for the last. RamdiskError when the file is no longer what it was."""
        try:
            with open_regular_file(self.path, RamdiskError) as descriptor, open(descriptor, "rb", buffering=0, closefd=False) as file:
                left = self.size
                while left:
                    piece = _read_fully(file.fileno(), min(left, _CHUNK))
                    left -= len(piece)
                    yield piece
        except BuilderError as error:
            raise RamdiskError(f"ramdisk {self.path}: {error}") from error


def open_ramdisk(path: Path) -> Ramdisk:
    """Checks that the file can be read. RamdiskError when it is missing, unreadable, empty, or no regular file."""
    try:
        with open_regular_file(path, RamdiskError) as descriptor:
            return Ramdisk(path, os.fstat(descriptor).st_size)
    except BuilderError as error:
        raise RamdiskError(f"ramdisk {path}: {error}") from error


def _read_fully(descriptor: int, size: int) -> bytes:
    pieces = []
    while size:
        piece = os.read(descriptor, size)
        if not piece:
            raise RamdiskError("it became shorter while it was read")
        pieces.append(piece)
        size -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
