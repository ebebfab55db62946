"""Kernels as they were read last, so that domains which are made one after another from one file do not read and check it each time."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

Image = TypeVar("Image")

#: How many are kept, and for how long after their last use, in seconds: each is as large as the kernel unpacked, some 60 MiB.
_KEPT = 2
KEEP_S = 10.0
#: A file that changed less than so many seconds ago may change again within the resolution of its times, and is read each time.
_SETTLED_S = 2.0


class RecentKernels:
    """By the file's identity (device, inode) and all that changes when it does (size, times of change). From any thread."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._lock = threading.Lock()
        self._images: OrderedDict[tuple[object, ...], tuple[Any, float]] = OrderedDict()
        self._sweeper: threading.Timer | None = None

    def open(self, path: Path, read: Callable[[Path], Image]) -> Image:
        """The image of the file as ``read`` made it last, or makes it now; its errors pass through."""
        key = _identity(path)
        if key is None:
            return read(path)
        key = (read, *key)
        with self._lock:
            kept = self._images.get(key)
        image: Image = kept[0] if kept is not None else read(path)
        with self._lock:
            self._images[key] = image, time.monotonic() + self._keep_s
            self._images.move_to_end(key)
            while len(self._images) > _KEPT:
                self._images.popitem(last=False)
            self._sweep_later()
        return image

    def _sweep_later(self) -> None:
        if self._sweeper is None:
            self._sweeper = threading.Timer(self._keep_s, self._sweep)
            self._sweeper.daemon = True
            self._sweeper.start()

    def _sweep(self) -> None:
        with self._lock:
            self._sweeper = None
            now = time.monotonic()
            for key in [key for key, (_, until) in self._images.items() if until <= now]:
                del self._images[key]
            if self._images:
                self._sweep_later()

    def close(self) -> None:
        """Forget all."""
        with self._lock:
            self._images.clear()
            if self._sweeper is not None:
                self._sweeper.cancel()
                self._sweeper = None


def _identity(path: Path) -> tuple[object, ...] | None:
    """None for a file that is not there or has just changed."""
    with contextlib.suppress(OSError, ValueError):
        status = os.stat(path)
        if time.time() - max(status.st_mtime, status.st_ctime) > _SETTLED_S:
            return str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return None
