"""The server side of the control protocol: connections, requests side by side, streams. What the calls do is in ``service``."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from pyxen.host import wire
from pyxen.host.protocol import MAX_LINE_BYTES, METHODS, ErrorKind, HostError, Method, Progress, StreamMethod

_logger = logging.getLogger(__name__)

P = TypeVar("P")
R = TypeVar("R")
E = TypeVar("E")

#: Requests of one connection that may run at once.
MAX_REQUESTS = 64

ProgressReport = Callable[[Progress], None]
_Send = Callable[[dict[str, Any]], Awaitable[None]]
_Handler = Callable[[Any, _Send], Awaitable[Any]]


class MethodTable:
    """Which function serves which method. ``missing`` tells what the protocol has and nobody serves."""

    def __init__(self) -> None:
        self._handlers: dict[str, _Handler] = {}

    def call(self, method: Method[P, R], function: Callable[[P], Awaitable[R]]) -> None:
        async def handler(parameters: P, send: _Send) -> R:
            return await function(parameters)

        self._handlers[method.name] = handler

    def long_call(self, method: Method[P, R], function: Callable[[P, ProgressReport], Awaitable[R]]) -> None:
        """``function`` may report its progress, from the event loop's thread."""

        async def handler(parameters: P, send: _Send) -> R:
            reports: asyncio.Queue[Progress] = asyncio.Queue()
            forwarder = asyncio.create_task(_forward(reports, send))
            try:
                return await function(parameters, reports.put_nowait)
            finally:
                forwarder.cancel()

        self._handlers[method.name] = handler

    def stream(self, method: StreamMethod[P, E, R], function: Callable[[P, Callable[[E], Awaitable[None]]], Awaitable[R]]) -> None:
        """``function`` sends events; sending waits for a slow reader."""

        async def handler(parameters: P, send: _Send) -> R:
            async def send_event(event: E) -> None:
                await send({"event": wire.encode(event)})

            return await function(parameters, send_event)

        self._handlers[method.name] = handler

    def find(self, name: str) -> _Handler | None:
        return self._handlers.get(name)

    @property
    def missing(self) -> set[str]:
        return set(METHODS) - set(self._handlers)


async def _forward(reports: asyncio.Queue[Progress], send: _Send) -> None:
    while True:
        await send({"progress": wire.encode(await reports.get())})


class ControlServer:
    """Listens on the control socket. ``describe_fault`` makes a ``HostError`` of whatever a handler raised."""

    def __init__(self, table: MethodTable, describe_fault: Callable[[Exception], HostError]) -> None:
        self._table = table
        self._describe_fault = describe_fault
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, path: Path) -> None:
        """Begin to answer. Raises ``OSError``."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(path))
            os.chmod(path, 0o600)  # before listen(): until then nobody can connect
        except BaseException:
            listener.close()
            raise
        self._server = await asyncio.start_unix_server(self._connected, sock=listener, limit=MAX_LINE_BYTES, backlog=128)

    async def close(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._connections.add(task)
        try:
            if _peer_is_owner(writer):
                await _Connection(self._table, self._describe_fault, reader, writer).serve()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            if task is not None:
                self._connections.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()


def _peer_is_owner(writer: asyncio.StreamWriter) -> bool:
    """The socket's permissions keep other users out already; this does where a file system ignores them."""
    peer: socket.socket = writer.get_extra_info("socket")
    _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid != os.getuid():
        _logger.warning("refused a connection of user %d", uid)
    return bool(uid == os.getuid())


class _Connection:
    """One client. Its streams end with it; calls that change something run to their end."""

    def __init__(
        self,
        table: MethodTable,
        describe_fault: Callable[[Exception], HostError],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._table = table
        self._describe_fault = describe_fault
        self._reader = reader
        self._writer = writer
        self._writing = asyncio.Lock()
        self._requests: dict[int, asyncio.Task[None]] = {}
        self._streams: dict[int, asyncio.Task[None]] = {}

    async def serve(self) -> None:
        try:
            while True:
                try:
                    line = await self._reader.readline()
                except ValueError:
                    await self._send_error(None, HostError("the request is too long", ErrorKind.PROTOCOL))
                    return
                if not line.endswith(b"\n"):
                    return
                await self._receive(line)
        finally:
            for task in self._streams.values():
                task.cancel()

    async def _receive(self, untrusted_line: bytes) -> None:
        try:
            untrusted = json.loads(untrusted_line)
        except (ValueError, RecursionError):
            await self._send_error(None, HostError("the request is not JSON", ErrorKind.PROTOCOL))
            return
        if isinstance(untrusted, dict) and type(untrusted.get("cancel")) is int:
            stream = self._streams.get(untrusted["cancel"])
            if stream is not None:
                stream.cancel()
            return
        request_id = untrusted.get("id") if isinstance(untrusted, dict) else None
        if type(request_id) is not int or not isinstance(untrusted.get("method"), str):
            await self._send_error(None, HostError("a request needs an id and a method", ErrorKind.PROTOCOL))
        elif request_id in self._requests or len(self._requests) >= MAX_REQUESTS:
            await self._send_error(request_id, HostError("too many requests, or the id is in use", ErrorKind.PROTOCOL))
        else:
            task = asyncio.create_task(self._answer(request_id, untrusted["method"], untrusted.get("params", {})))
            self._requests[request_id] = task
            if isinstance(METHODS.get(untrusted["method"]), StreamMethod):
                self._streams[request_id] = task
            task.add_done_callback(lambda _: self._forget(request_id))

    def _forget(self, request_id: int) -> None:
        self._requests.pop(request_id, None)
        self._streams.pop(request_id, None)

    async def _answer(self, request_id: int, name: str, untrusted_parameters: Any) -> None:
        async def send(message: dict[str, Any]) -> None:
            await self._send({"id": request_id, **message})

        try:
            method = METHODS.get(name)
            handler = self._table.find(name)
            if method is None or handler is None:
                raise HostError(f"this host knows no method {name!r}; is it of another version? restart it", ErrorKind.PROTOCOL)
            try:
                parameters = wire.decode(method.parameters, untrusted_parameters, "params")
            except wire.WireError as error:
                raise HostError(f"{name}: {error}", ErrorKind.PROTOCOL) from None
            result = await handler(parameters, send)
            await send({"result": wire.encode(result)})
        except ConnectionError:
            pass  # nobody waits for the answer any more
        except Exception as error:
            with contextlib.suppress(ConnectionError):
                await self._send_error(request_id, self._describe_fault(error))

    async def _send_error(self, request_id: int | None, error: HostError) -> None:
        answer: dict[str, Any] = {"message": error.message, "kind": error.kind.value}
        if error.errno is not None:
            answer["errno"] = error.errno
        await self._send({"id": request_id, "error": answer})

    async def _send(self, message: dict[str, Any]) -> None:
        # One writer at a time: drain() of StreamWriter is not for several tasks at once on Python 3.11.
        async with self._writing:
            self._writer.write(json.dumps(message).encode() + b"\n")
            await self._writer.drain()
