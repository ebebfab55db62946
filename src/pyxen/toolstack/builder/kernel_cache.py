"""Unpacked kernels, kept by the hash of their packed form, so that the second boot of a kernel does not unpack it again.

A file is the unpacked kernel followed by a trailer (magic, CRC-32, length); it appears by rename, so a reader sees all or nothing, and
one that fails its trailer is as if it were not there. Nothing here is ever the reason for a boot to fail.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

#: Files kept; the ones used longest ago go first.
_KEPT = 8

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
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        body = memoryview(content)[: -_TRAILER.size]
        if len(content) < _TRAILER.size or content[-_TRAILER.size :] != _trailer(body):
            return None
        return body

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
        for entry in entries[:-_KEPT]:
            os.unlink(entry)


def _trailer(body: memoryview) -> bytes:
    return _TRAILER.pack(_MAGIC, zlib.crc32(body), len(body))
