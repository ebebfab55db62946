"""A disk image behind QEMU's storage daemon. A daemon that dies is started again, and what it had not answered is asked once more.

It may also have answered writes that are in no file yet: a format's tables are written back at a flush, or when the daemon's cache is
full. So what was written since the last flush is kept here, and is written again, in the same order, before the next daemon is asked for
anything.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import queue
import threading
from collections.abc import Callable, Sequence

from pyxen.backends.block_image import SECTOR, ImageLock
from pyxen.backends.device import DeviceError
from pyxen.backends.helper_program import HelperPrograms
from pyxen.backends.nbd import Export, NbdConnection
from pyxen.backends.storage_daemon import StorageDaemon

_logger = logging.getLogger(__name__)

#: So many bytes written since the last flush make one due (also counts a little for each write).
_MAX_LOG_BYTES = 32 << 20
_LOG_ENTRY_BYTES = 256

#: A request that has been asked so often, of as many daemons, is answered with an error.
_MAX_ATTEMPTS = 20


class _Change:
    """A write, or a discard, that may not have come through."""

    __slots__ = ("data", "done", "length", "offset")

    def __init__(self, offset: int, length: int, data: bytes | None) -> None:
        self.offset = offset
        self.length = length
        self.data = data
        self.done = False

    def apply(self, connection: NbdConnection) -> None:
        if self.data is None:
            connection.trim(self.offset, self.length)
        else:
            connection.write([memoryview(self.data)], self.offset)


class _ChangeLog:
    """What was changed since the last flush, in the order of beginning. A guest orders changes of the same sectors by waiting for the
    first to be done, so those that are under way at the same time don't overlap. On any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changes: list[_Change] = []
        self._bytes = 0

    def begin(self, change: _Change) -> None:
        with self._lock:
            self._changes.append(change)
            self._bytes += _LOG_ENTRY_BYTES + len(change.data or b"")

    def end(self, change: _Change, succeeded: bool) -> bool:
        """-> whether a flush is due."""
        with self._lock:
            change.done = True
            if not succeeded:
                self._drop([change])
            return self._bytes > _MAX_LOG_BYTES

    def done(self) -> list[_Change]:
        """What a flush that begins now is for."""
        with self._lock:
            return [change for change in self._changes if change.done]

    def flushed(self, changes: list[_Change]) -> None:
        with self._lock:
            self._drop(changes)

    def _drop(self, changes: list[_Change]) -> None:
        gone = set(map(id, changes))
        self._changes = [change for change in self._changes if id(change) not in gone]
        self._bytes = sum(_LOG_ENTRY_BYTES + len(change.data or b"") for change in self._changes)

    def all(self) -> list[_Change]:
        with self._lock:
            return list(self._changes)


class NbdImage:
    """A ``DiskImage``. Each request has a connection for itself; there are as many as there were requests at once."""

    is_block_device = False
    device_numbers = (0, 0)

    def __init__(self, daemon: StorageDaemon, lock: ImageLock, path: str, export: Export, *, writable: bool) -> None:
        self.path = path
        self.writable = writable
        self.daemon = daemon
        self._lock = lock
        self._export = export
        self._idle: queue.SimpleQueue[NbdConnection] = queue.SimpleQueue()
        self._log = _ChangeLog()
        self._generation = 0  #: of the daemon that has everything that the log has
        self._replaying = threading.Lock()

    @classmethod
    async def open(cls, helpers: HelperPrograms, owner: str, path: str, image_format: str, *, writable: bool) -> NbdImage:
        """Raises ``DeviceError`` with one line for the user."""
        lock = ImageLock(path, writable=writable, shared=False)
        try:
            daemon = StorageDaemon(helpers, owner, path, image_format, writable=writable)
            try:
                export = await daemon.open()
                if not export.size or export.size % SECTOR:
                    raise DeviceError(errno.EINVAL, f"disk image {path}: its size, {export.size} bytes, is no multiple of {SECTOR}")
                return cls(daemon, lock, path, export, writable=writable)
            except BaseException:
                await daemon.close()
                raise
        except BaseException:
            lock.release()
            raise

    def sectors(self) -> int:
        """Its size, in sectors of 512 bytes."""
        return self._export.size // SECTOR

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See ``DiskImage``."""
        self._ask(lambda connection: connection.read(buffers, offset))

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        """See ``DiskImage``."""
        data = b"".join(buffers)
        self._change(_Change(offset, len(data), data))

    def read_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Never: the daemon is another process."""
        return False

    def write_at_once(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Never."""
        return False

    def flush(self) -> None:
        """See ``DiskImage``."""
        changes = self._log.done()
        if self._export.flushes:
            self._ask(lambda connection: connection.flush())
        self._log.flushed(changes)

    def discard(self, offset: int, length: int) -> None:
        """See ``DiskImage``. Whether the bytes read as zeroes afterwards is the format's matter."""
        if not self._export.trims:
            raise OSError(errno.EOPNOTSUPP, "the image has no discard")
        self._change(_Change(offset, length, None))

    def _change(self, change: _Change) -> None:
        self._log.begin(change)
        succeeded = False
        try:
            self._ask(change.apply)
            succeeded = True
        finally:
            flush_is_due = self._log.end(change, succeeded)
        if flush_is_due:
            self.flush()

    def _ask(self, request: Callable[[NbdConnection], None]) -> None:
        for _ in range(_MAX_ATTEMPTS):
            try:
                connection = self._connection()
            except ConnectionRefusedError as error:
                raise OSError(errno.EIO, f"QEMU's storage daemon is gone: {error.strerror}") from None
            except OSError:
                continue
            try:
                request(connection)
            except ConnectionError:
                self.daemon.disconnect(connection)
                continue
            except BaseException as error:
                if isinstance(error, OSError):  # the daemon's answer; the connection is in order
                    self._idle.put(connection)
                else:
                    self.daemon.disconnect(connection)
                raise
            self._idle.put(connection)
            return
        raise OSError(errno.EIO, "QEMU's storage daemon does not answer")

    def _connection(self) -> NbdConnection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            connection, self._export = self.daemon.connect()
        with self._replaying:
            generation = self.daemon.generation
            if generation != self._generation:
                try:
                    for change in self._log.all():
                        change.apply(connection)
                except BaseException:
                    self.daemon.disconnect(connection)
                    raise
                self._generation = generation
        return connection

    async def close(self) -> None:
        """Stop the daemon and unlock. No request may be running."""
        try:
            await asyncio.to_thread(self.flush)
        except OSError as error:
            _logger.error("%s: %s: what was written last may be lost: %s", self.daemon.owner, self.path, error.strerror)
        while not self._idle.empty():
            self.daemon.disconnect(self._idle.get_nowait())
        await self.daemon.close()
        self._lock.release()
