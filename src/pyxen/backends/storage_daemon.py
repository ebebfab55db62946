"""QEMU's storage daemon: one process for one disk image of a format that we had better not parse ourselves, served over NBD.

The daemon gets a listening socket that stays ours, so a client may connect while there is no daemon: it is served by the next one. The
socket has no name in any file system after its birth.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import stat
import tempfile
import threading
from collections.abc import Callable, Sequence

from pyxen.backends.device import DeviceError
from pyxen.backends.helper_program import HelperError, HelperProgram, HelperPrograms, stop
from pyxen.backends.nbd import Export, NbdConnection

_logger = logging.getLogger(__name__)

#: Formats of disk specifications -> QEMU's drivers.
DRIVERS = {"qcow": "qcow", "qcow2": "qcow2", "qed": "qed", "vhd": "vpc", "vhdx": "vhdx", "vmdk": "vmdk"}
PROGRAM = "qemu-storage-daemon"

_EXPORT = "disk"
_BACKLOG = 16
#: A daemon that ends more often than so many times in so many seconds is not started again.
_MAX_ENDS, _END_SECONDS = 20, 60.0
#: Seconds that a client waits for the daemon's answer to the handshake.
_HANDSHAKE_TIMEOUT = 20.0


class StorageDaemon:
    """Serves one image. ``open`` and ``close`` belong to the event loop's thread, ``connect`` may be called on any."""

    def __init__(self, helpers: HelperPrograms, owner: str, path: str, image_format: str, *, writable: bool) -> None:
        self._helpers = helpers
        self.owner = owner
        self._path = path
        self._format = image_format
        self._arguments = _arguments(path, DRIVERS[image_format], writable)
        self._loop = asyncio.get_running_loop()
        self._listener, self._address = _nameless_listener()
        self._program: HelperProgram | None = None
        self._program_ended: Callable[[int], None] = self._ended
        self._ends: list[float] = []
        self._restart: asyncio.Task[None] | None = None
        self._lock = threading.Lock()
        self._connections: set[NbdConnection] = set()
        #: Why there will be no daemon any more; empty: there is one, or will be.
        self.failure = ""
        #: Counts the daemons. When a connection's handshake is done, the daemon of this number serves it, or the connection is dead.
        self.generation = 0

    @property
    def pid(self) -> int:
        """Of the daemon that runs now, or ran last."""
        return self._program.pid if self._program is not None else 0

    async def open(self) -> Export:
        """Start it, and see that it serves the image. Raises ``DeviceError`` with the daemon's own words; then close it."""
        try:
            self._program = await self._start(self._ended_early)
        except HelperError as error:
            raise DeviceError(errno.ENOENT, f"disk image {self._path}: {error}") from None
        try:
            connection, export = await asyncio.to_thread(self.connect)
        except OSError as error:
            words = self._program.last_words.removeprefix(f"{PROGRAM}: ") if self._program.status is not None else str(error)
            raise DeviceError(errno.EINVAL, f"disk image {self._path} can't be used as {self._format}: {words}") from None
        self.disconnect(connection)
        self._program_ended = self._ended
        return export

    async def _start(self, ended: Callable[[int], None]) -> HelperProgram:
        self._program_ended = ended
        return await self._helpers.start(
            PROGRAM, self._arguments, owner=self.owner, descriptors=(self._listener.fileno(),), exited=self._hear_end
        )

    def _hear_end(self, status: int) -> None:
        self._program_ended(status)

    def _ended_early(self, status: int) -> None:
        self._give_up(f"it ended with status {status}")

    def _ended(self, status: int) -> None:
        self.generation += 1
        now = self._loop.time()
        self._ends = [*(at for at in self._ends if now - at < _END_SECONDS), now]
        if len(self._ends) > _MAX_ENDS:
            self._give_up("it ends all the time")
            _logger.error("%s: %s of %s ended %d times in a minute; no more", self.owner, PROGRAM, self._path, len(self._ends))
            return
        _logger.warning("%s: %s of %s ended with status %d; it is started again", self.owner, PROGRAM, self._path, status)
        self._restart = self._loop.create_task(self._start_again())

    async def _start_again(self) -> None:
        try:
            self._program = await self._start(self._ended)
        except HelperError as error:
            self._give_up(str(error))
            _logger.error("%s: %s", self.owner, error)

    def _give_up(self, reason: str) -> None:
        with self._lock:
            self.failure = reason
            for connection in self._connections:
                connection.abort()

    # -- clients ----------------------------------------------------------------------------------------------------------
    def connect(self) -> tuple[NbdConnection, Export]:
        """A new connection, to the daemon that runs or to the next one. The caller closes it by ``disconnect``. On any thread.
        Raises ``ConnectionRefusedError`` when there will be none, ``OSError`` and ``TimeoutError``."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection = NbdConnection(client)
        try:
            client.settimeout(_HANDSHAKE_TIMEOUT)
            client.connect(f"/proc/self/fd/{self._address}")
            with self._lock:
                if self.failure:
                    raise ConnectionRefusedError(errno.ECONNREFUSED, self.failure)
                self._connections.add(connection)
            export = connection.handshake(_EXPORT)
            client.settimeout(None)
            return connection, export
        except BaseException:
            self.disconnect(connection)
            raise

    def disconnect(self, connection: NbdConnection) -> None:
        """Close a connection of ``connect``."""
        with self._lock:
            self._connections.discard(connection)
            connection.close()

    async def close(self) -> None:
        """Stop the daemon: what was written has reached the image's file. May be called again."""
        self._program_ended = lambda status: None
        if self._restart is not None:
            await asyncio.wait([self._restart])
        self._give_up("the disk is closed")
        if self._program is not None:
            await stop(self._program)
            self._program = None
        self._listener.close()
        if self._address >= 0:
            os.close(self._address)
            self._address = -1


def _nameless_listener() -> tuple[socket.socket, int]:
    """A listening Unix socket that only this process can name: -> it, and a descriptor to connect to by /proc/self/fd."""
    folder = tempfile.mkdtemp(prefix="pyxen-nbd-")
    path = os.path.join(folder, "socket")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(path)
        listener.listen(_BACKLOG)
        return listener, os.open(path, os.O_PATH | os.O_CLOEXEC)
    except BaseException:
        listener.close()
        raise
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.rmdir(folder)


def _arguments(path: str, driver: str, writable: bool) -> Sequence[str]:
    is_device = stat.S_ISBLK(os.stat(path).st_mode)
    file = {
        "node-name": "file",
        "driver": "host_device" if is_device else "file",
        "filename": path,
        "read-only": not writable,
        "discard": "unmap",
    }
    disk = {"node-name": "disk", "driver": driver, "file": "file", "read-only": not writable, "discard": "unmap"}
    return (
        *("--blockdev", json.dumps(file), "--blockdev", json.dumps(disk)),
        *("--nbd-server", "addr.type=fd,addr.str=3"),
        *("--export", f"type=nbd,id=export,node-name=disk,name={_EXPORT},writable={'on' if writable else 'off'}"),
    )
