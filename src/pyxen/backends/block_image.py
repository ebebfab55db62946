"""What is behind a virtual disk: an image, opened, locked, read and written. Here: raw files, block devices of the host, and nothing at
all (an empty CD drive)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from pyxen.backends.device import DeviceError
from pyxen.backends.scattered_buffers import MAX_BUFFERS, transfer

SECTOR = 512  #: bytes; the unit of block rings, whatever the disk's own is

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

#: A write that took longer has waited for something, and for so long others are not expected to do better.
_PROMPT_SECONDS, _SLOW_SECONDS = 0.02, 1.0

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class DiskImage(Protocol):
    """An open image. All methods but ``close`` may be called from several threads at once."""

    path: str
    writable: bool
    is_block_device: bool
    device_numbers: tuple[int, int]  #: major and minor number of a block device

    def sectors(self) -> int:
        """Its size now, in sectors of 512 bytes."""

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers from byte ``offset`` on. OSError; EIO if the image ends before (it was truncated)."""

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write the buffers from byte ``offset`` on. OSError."""

    def read_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """``read``, if that takes no longer than to copy the bytes. False: it would, and what the buffers hold does not count. OSError."""

    def write_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """``write``, if that takes no longer, as far as one can know. False: nothing was written. OSError."""

    def flush(self) -> None:
        """What was written is on the medium when it returns. OSError."""

    def discard(self, offset: int, length: int) -> None:
        """The bytes are not needed any more. OSError, with EOPNOTSUPP when that can't be told to the medium."""

    async def close(self) -> None:
        """Closes and unlocks."""


class EmptyDrive:
    """A ``DiskImage`` without a medium."""

    path = ""
    writable = False
    is_block_device = False
    device_numbers = (0, 0)

    def sectors(self) -> int:
        """None."""
        return 0

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """ENOMEDIUM."""
        raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """ENOMEDIUM."""
        raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))

    def read_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Never."""
        return False

    def write_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """Nothing is ever written."""

    def discard(self, offset: int, length: int) -> None:
        """ENOMEDIUM."""
        raise OSError(errno.ENOMEDIUM, os.strerror(errno.ENOMEDIUM))

    async def close(self) -> None:
        """Nothing to close."""


class ImageLock:
    """Keeps an image open and locked (flock): against everybody for writing, against writers for reading; not at all if ``shared``."""

    def __init__(self, path: str, *, writable: bool, shared: bool) -> None:
        """Raises ``DeviceError`` with one line for the user."""
        self.descriptor = _open(path, writable)
        try:
            if not shared:
                _lock(self.descriptor, path, writable)
        except BaseException:
            os.close(self.descriptor)
            raise

    def release(self) -> None:
        """Unlock and close."""
        os.close(self.descriptor)


class BlockImage:
    """A ``DiskImage`` whose bytes are the file's."""

    def __init__(self, path: str, *, writable: bool, shared: bool) -> None:
        """Raises ``DeviceError`` with one line for the user."""
        self.path = path
        self.writable = writable
        self._lock = ImageLock(path, writable=writable, shared=shared)
        self._descriptor = self._lock.descriptor
        try:
            status = os.fstat(self._descriptor)
            self.is_block_device = stat.S_ISBLK(status.st_mode)
            #: major and minor number of a block device
            self.device_numbers = (os.major(status.st_rdev), os.minor(status.st_rdev))
            size = self._size()
            if size % SECTOR:
                raise DeviceError(errno.EINVAL, f"disk image {path}: its size, {size} bytes, is no multiple of {SECTOR}")
            if not size:
                raise DeviceError(errno.EINVAL, f"disk image {path} is empty; give it a size, as with: truncate -s 1G {path}")
        except BaseException:
            self._lock.release()
            raise
        self._tells_cached = True  # whether its file system knows RWF_NOWAIT
        self._writes_wait_until = 0.0

    def _size(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def sectors(self) -> int:
        """See ``DiskImage``."""
        return self._size() // SECTOR

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See ``DiskImage``."""
        self._transfer(os.preadv, buffers, offset)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See ``DiskImage``."""
        self._transfer(os.pwritev, buffers, offset)

    def read_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """See ``DiskImage``. What the host has in its page cache."""
        if not self._tells_cached or len(buffers) > MAX_BUFFERS:
            return False
        try:
            return os.preadv(self._descriptor, buffers, offset, os.RWF_NOWAIT) == sum(map(len, buffers))
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            self._tells_cached = False
            return False

    def write_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """See ``DiskImage``. Writes go to the host's page cache; when one has waited (the host throttles who writes faster than its disk
        does), the next ones are expected to."""
        began = time.monotonic()
        if began < self._writes_wait_until:
            return False
        self.write(buffers, offset)
        ended = time.monotonic()
        if ended - began > _PROMPT_SECONDS:
            self._writes_wait_until = ended + _SLOW_SECONDS
        return True

    def _transfer(self, call: Callable[[int, list[memoryview], int], int], buffers: Sequence[memoryview], offset: int) -> None:
        def part(rest: list[memoryview]) -> int:
            nonlocal offset
            done = call(self._descriptor, rest, offset)
            offset += done
            return done

        try:
            transfer(part, buffers)
        except EOFError:
            raise OSError(errno.EIO, "the image ends early") from None

    def flush(self) -> None:
        """See ``DiskImage``."""
        os.fdatasync(self._descriptor)

    def discard(self, offset: int, length: int) -> None:
        """See ``DiskImage``. The bytes read as zeroes afterwards."""
        if _libc.fallocate(self._descriptor, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    async def close(self) -> None:
        """See ``DiskImage``."""
        self._lock.release()


def _lock(descriptor: int, path: str, writable: bool) -> None:
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        hint = "shared writing is asked for by access w!" if writable else "it is being written"
        raise DeviceError(errno.EBUSY, f"disk image {path} is in use by another domain or program ({hint})") from None
    except OSError as error:
        raise DeviceError(error.errno or errno.EIO, f"disk image {path} can't be locked: {error.strerror}") from None


def _open(path: str, writable: bool) -> int:
    # Not blocking: a path may name a FIFO.
    flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise DeviceError(errno.ENOENT, f"disk image {path} does not exist") from None
    except OSError as error:
        purpose = "written" if writable else "read"
        raise DeviceError(error.errno or errno.EIO, f"disk image {path} can't be {purpose}: {error.strerror}") from None
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise DeviceError(errno.EINVAL, f"disk image {path} is neither a file nor a block device")
    return descriptor
