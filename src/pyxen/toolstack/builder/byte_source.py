"""Bytes to parse, in memory or in a file. Reads are checked: outside the source they are an error, never short."""

from __future__ import annotations

import os
from typing import Protocol

from pyxen.toolstack.builder.errors import KernelFormatError


class ByteSource(Protocol):
    """``size`` bytes that can be read at any offset."""

    size: int

    def read(self, untrusted_offset: int, untrusted_size: int, what: str) -> memoryview:
        """Exactly these bytes. ``what`` names them in the ``KernelFormatError`` that a range outside the source raises."""


def check_range(size: int, untrusted_offset: int, untrusted_size: int, what: str) -> None:
    """KernelFormatError unless the range lies within ``size`` bytes."""
    if untrusted_offset < 0 or untrusted_size < 0 or untrusted_offset + untrusted_size > size:
        end = untrusted_offset + untrusted_size
        raise KernelFormatError(f"truncated or corrupt: its {what} should end at byte {end}, but there are only {size} bytes")


class MemoryBytes:
    """A source in memory. Reads are views, not copies."""

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._view = memoryview(data).toreadonly()
        self.size = len(self._view)

    def read(self, untrusted_offset: int, untrusted_size: int, what: str) -> memoryview:
        """See ByteSource."""
        check_range(self.size, untrusted_offset, untrusted_size, what)
        return self._view[untrusted_offset : untrusted_offset + untrusted_size]


class FileBytes:
    """A source in an open file. Read, not mapped: a mapped file that somebody truncates would kill the host process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    def read(self, untrusted_offset: int, untrusted_size: int, what: str) -> memoryview:
        """See ByteSource."""
        check_range(self.size, untrusted_offset, untrusted_size, what)
        buffer = memoryview(bytearray(untrusted_size))
        done = 0
        while done < untrusted_size:
            count = os.preadv(self._descriptor, [buffer[done:]], untrusted_offset + done)
            if count == 0:
                raise KernelFormatError(f"truncated while its {what} was read")
            done += count
        return buffer.toreadonly()
