"""Unpacked kernels, kept by the hash of their packed form, so that the second boot of a kernel does not unpack it again.

A file is the unpacked kernel followed by a trailer (magic, CRC-32, length); it appears by rename, so a reader sees all or nothing, and
one that fails its trailer is as if it were not there. Nothing here is ever the reason for a boot to fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

#: Files kept, and how much they take together (but the newest stays in any case); the ones used longest ago go first.
_KEPT = 8
_KEPT_BYTES = 1 << 30

_TRAILER = struct.Struct("<8sIQ")
_MAGIC = b"pyxenk01"

#: One unpacking at a time: eight domains created at once from one kernel unpack it once.
_unpacking = threading.Lock()


def default_cache_directory() -> Path:
    """``$PYXEN_CACHE_DIR``, else ``~/.cache/pyxen``."""
    configured = os.environ.get("PYXEN_CACHE_DIR")
    return Path(configured) if configured else Path.home() / ".cache" / "pyxen"


class KernelCache:
    """The folder ``kernels`` in the cache folder."""

    def __init__(self, cache_directory: Path) -> None:
        self._directory = cache_directory / "kernels"

    def unpacked(self, packed: memoryview, unpack: Callable[[], bytearray]) -> memoryview:
        """The unpacked form of ``packed``: out of the cache, else by ``unpack()``, whose errors pass through."""
        path = self._directory / hashlib.sha256(packed).hexdigest()
        with _unpacking:
            kept = self._load(path)
            if kept is not None:
                return kept
            data = unpack()
            with contextlib.suppress(OSError):
                self._store(path, data)
            return memoryview(data)

    def _load(self, path: Path) -> memoryview | None:
        try:
            content = _read(path)
            os.utime(path)
        except (OSError, ValueError):
            return None
        if len(content) < _TRAILER.size or content[-_TRAILER.size :] != _trailer(content[: -_TRAILER.size]):
            return None
        return content[: -_TRAILER.size]

    def _store(self, path: Path, data: bytearray) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor, temporary = tempfile.mkstemp(dir=self._directory, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.write(_trailer(memoryview(data)))
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        self._prune()

    def _prune(self) -> None:
        entries = sorted(os.scandir(self._directory), key=lambda entry: entry.stat().st_mtime_ns)
        size = sum(entry.stat().st_size for entry in entries)
        for position, entry in enumerate(entries[:-1]):
            if len(entries) - position > _KEPT or size > _KEPT_BYTES:
                os.unlink(entry)
                size -= entry.stat().st_size


def _read(path: Path) -> memoryview:
    """The file, in memory of large pages where the host has them: to fill 60 MiB of small ones takes longer than to check them. Raises
    OSError, and ValueError for an empty file."""
    with path.open("rb", buffering=0) as file:
        content = mmap.mmap(-1, os.fstat(file.fileno()).st_size)
        with contextlib.suppress(OSError):  # a kernel without them
            content.madvise(mmap.MADV_HUGEPAGE)
        view = memoryview(content)
        filled = 0
        while filled < len(view) and (count := file.readinto(view[filled:])):
            filled += count
        return view[:filled].toreadonly()


def _trailer(body: memoryview) -> bytes:
    return _TRAILER.pack(_MAGIC, zlib.crc32(body), len(body))
