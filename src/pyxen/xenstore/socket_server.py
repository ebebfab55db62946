"""The Unix socket of the store: what ``xenstore-*`` and other programs that use libxenstore connect to (``XENSTORED_PATH``).

Whoever may connect has Domain 0's rights, so the socket is its owner's alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from pyxen.xenstore.client import Connection
from pyxen.xenstore.daemon import Daemon

log = logging.getLogger("pyxen.xenstore")

#: Requests that wait before the socket is no longer read, in bytes.
MAX_INPUT = 64 * 1024
#: A client that lets this much pile up is dropped, in bytes.
MAX_OUTPUT = 16 * 1024 * 1024

_MAX_SOCKET_PATH = 107
_UCRED = struct.Struct("3i")  # SO_PEERCRED: pid, uid, gid


class SocketInUseError(Exception):
    """Another store listens on this path."""


def may_connect(uid: int) -> bool:
    """Whether a user may have Domain 0's rights: whoever runs the store, and root, who could anyway."""
    return uid in (0, os.getuid())


class SocketConnection(Connection):
    """A client of the socket."""

    def __init__(self, daemon: Daemon, transport: asyncio.Transport, number: int) -> None:
        super().__init__(daemon, 0, privileged=True, name=f"socket client {number}")
        self._transport = transport
        self._reading = True
        self.writable = True

    def data_received(self, untrusted_data: bytes) -> None:
        """More of the stream."""
        self._input.feed(untrusted_data)
        self.turn()
        if not self.closed and self._reading and len(self._input) > MAX_INPUT:
            self._reading = False
            self._transport.pause_reading()

    def watch_event(self, path: str, token: bytes) -> None:
        """Queue an event; a client that never reads is dropped."""
        super().watch_event(path, token)
        if self._queued_bytes > MAX_OUTPUT and not self.closed:
            log.warning("%s: does not read, dropped", self.name)
            self.daemon.scheduler.call_soon(self.close)

    def _may_serve(self) -> bool:
        return self.writable

    def _receive(self) -> bool:
        return False

    def _transmit(self) -> None:
        """Everything goes out together at the end of the turn."""

    def _end_turn(self) -> None:
        messages = []
        while self.writable and (message := self._take_output()) is not None:
            messages.append(message)
        if messages:
            self._transport.write(b"".join(messages))
        if not self._reading and len(self._input) <= MAX_INPUT:
            self._reading = True
            self._transport.resume_reading()

    def close(self) -> None:
        """Hang up."""
        if not self.closed:
            self.closed = True
            self.reset()
            self.daemon.forget(self)
            self._transport.close()


class _Protocol(asyncio.Protocol):
    """Glue between a transport and its connection."""

    def __init__(self, daemon: Daemon, number: Callable[[], int]) -> None:
        self._daemon = daemon
        self._number = number
        self._connection: SocketConnection | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer: socket.socket = transport.get_extra_info("socket")
        _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        if not may_connect(uid):
            log.warning("refused a socket client of user %d", uid)
            transport.abort()
            return
        self._connection = SocketConnection(self._daemon, transport, self._number())
        self._daemon.clients.add(self._connection)

    def data_received(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.data_received(data)

    def pause_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable = False

    def resume_writing(self) -> None:
        if self._connection is not None:
            self._connection.writable = True
            self._connection.schedule_turn()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._connection.close()


class SocketServer:
    """Listens on a path while it is started."""

    def __init__(self, daemon: Daemon, path: Path) -> None:
        self._daemon = daemon
        self._path = path
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._clients = 0

    async def start(self) -> None:
        """Listen. The folder is made, for the owner only, if need be; a socket that nobody listens on any longer is replaced.
        SocketInUseError when somebody does, OSError when it can't be made (a path over 107 bytes, no permission)."""
        if len(os.fsencode(self._path)) > _MAX_SOCKET_PATH:
            raise OSError(f"{self._path}: longer than the {_MAX_SOCKET_PATH} bytes that a socket's path may have")
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._remove_stale()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(os.fspath(self._path))
            self._path.chmod(0o600)  # nobody can connect before it listens
            self._inode = self._path.stat().st_ino
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: _Protocol(self._daemon, self._next_number), sock=listener)
        except BaseException:
            listener.close()
            raise

    def _next_number(self) -> int:
        self._clients += 1
        return self._clients

    def _remove_stale(self) -> None:
        try:
            if not stat.S_ISSOCK(self._path.lstat().st_mode):
                raise OSError(f"{self._path}: is there and is not a socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(os.fspath(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
            else:
                raise SocketInUseError(f"{self._path}: another store listens there")

    async def stop(self) -> None:
        """Stop listening, hang up on all clients, remove the socket."""
        if self._server is None:
            return
        self._server.close()
        for client in list(self._daemon.clients):
            if isinstance(client, SocketConnection):
                client.close()
        await self._server.wait_closed()
        self._server = None
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
