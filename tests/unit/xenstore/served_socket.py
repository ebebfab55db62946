"""A store that listens on a socket, in a thread of its own, for tests that use it from outside."""

from __future__ import annotations

import asyncio
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pyxen.abi.io import xs_wire
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.socket_server import SocketServer
from pyxen.xenstore.store import Store
from pyxen.xenstore.wire import HEADER, pack

Result = TypeVar("Result")


class ServedSocket:
    """Use as a context. ``in_loop`` runs something in the store's thread."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pyxen-test-", dir="/tmp"))
        self.path = self.folder / "xenstored" / "socket"
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.daemon = Daemon(self._loop)
        self.store = Store(self.daemon)
        server = SocketServer(self.daemon, self.path)
        await server.start()
        self._ready.set()
        await self._stop.wait()
        await server.stop()

    def in_loop(self, function: Callable[[], Result]) -> Result:
        async def run() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    def __enter__(self) -> ServedSocket:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        shutil.rmtree(self.folder)


class SocketClient:
    """A plain client of the socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(10)
        self.socket.connect(str(path))

    def send(self, message_type: int, payload: bytes, request_id: int = 1) -> None:
        self.socket.sendall(pack(message_type, request_id, 0, payload))

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            chunk = self.socket.recv(size - len(data))
            if not chunk:
                raise EOFError
            data += chunk
        return data

    def receive(self) -> tuple[int, int, bytes]:
        message_type, request_id, _, length = HEADER.unpack(self.exactly(HEADER.size))
        return message_type, request_id, self.exactly(length)

    def read(self, path: str) -> bytes:
        self.send(xs_wire.XS_READ, path.encode() + b"\0")
        return self.receive()[2]

    def close(self) -> None:
        self.socket.close()
