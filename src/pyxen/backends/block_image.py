"""The file or block device behind a virtual disk: opened, locked, read and written."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Sequence

from pyxen.backends.device import DeviceError

SECTOR = 512  #: bytes; the unit of block rings, whatever the disk's own is

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


class BlockImage:
    """A raw image. All methods but ``close`` may be called from several threads at once.

    While it is open it is locked (flock): against everybody for writing, against writers for reading. ``shared`` images are not.
    """

    def __init__(self, path: str, *, writable: bool, shared: bool) -> None:
        """Raises ``DeviceError`` with one line for the user."""
        self.path = path
        self.writable = writable
        self._descriptor = _open(path, writable)
        try:
            if not shared:
                self._lock()
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
            os.close(self._descriptor)
            raise

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_EX if self.writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "shared writing is asked for by access w!" if self.writable else "it is being written"
            raise DeviceError(errno.EBUSY, f"disk image {self.path} is in use by another domain or program ({hint})") from None
        except OSError as error:
            raise DeviceError(error.errno or errno.EIO, f"disk image {self.path} can't be locked: {error.strerror}") from None

    def _size(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def sectors(self) -> int:
        """Its size now, in sectors of 512 bytes."""
        return self._size() // SECTOR

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Fill the buffers from byte ``offset`` on. OSError; EIO if the image ends before (it was truncated)."""
        self._transfer(os.preadv, buffers, offset)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """Write the buffers from byte ``offset`` on. OSError."""
        self._transfer(os.pwritev, buffers, offset)

    def _transfer(self, call: object, buffers: Sequence[memoryview], offset: int) -> None:
        assert callable(call)
        while buffers:
            done = call(self._descriptor, buffers, offset)
            if not done:
                raise OSError(errno.EIO, "the image ends early")
            offset += done
            buffers = _after(buffers, done)

    def flush(self) -> None:
        """What was written is on the medium when it returns. OSError."""
        os.fdatasync(self._descriptor)

    def discard(self, offset: int, length: int) -> None:
        """The bytes are not needed any more, and read as zeroes. OSError, with EOPNOTSUPP when the file system can't do it."""
        if _libc.fallocate(self._descriptor, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def close(self) -> None:
        """Closes and unlocks."""
        os.close(self._descriptor)


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


def _after(buffers: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of the buffers when so many bytes of them were transferred."""
    rest = list(buffers)
    while rest and done >= len(rest[0]):
        done -= len(rest.pop(0))
    if done:
        rest[0] = rest[0][done:]
    return rest
