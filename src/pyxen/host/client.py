"""The client of the host process: typed calls over its control socket, and starting the host when it does not run."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from pyxen.host import wire
from pyxen.host.protocol import MAX_LINE_BYTES, ErrorKind, HostError, Method, Progress, StreamMethod
from pyxen.host.runtime_directory import RuntimeDirectory, RuntimeDirectoryError

P = TypeVar("P")
R = TypeVar("R")
E = TypeVar("E")

#: How long a host may take from its start to its readiness, in seconds. The engine's self-test on a busy machine is the longest part.
START_TIMEOUT = 90.0


class _Connection:
    """One socket: lines out, lines in."""

    def __init__(self, stream: socket.socket) -> None:
        self._socket = stream
        self._received = bytearray()
        self._sent_id = 0

    def request(self, name: str, parameters: Any) -> None:
        """Send a request. Raises ``HostError`` if the host is gone."""
        self._sent_id += 1
        message = {"id": self._sent_id, "method": name, "params": wire.encode(parameters)}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise HostError(f"the host process went away: {error.strerror}", ErrorKind.HOST) from None

    def answer(self, timeout: float | None) -> dict[str, Any]:
        """The next message that belongs to the last request. ``timeout`` in seconds, None: for ever. Raises ``TimeoutError``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            line = self._line(deadline)
            try:
                message = json.loads(line)
            except ValueError:
                raise HostError("the host process sent a malformed answer", ErrorKind.PROTOCOL) from None
            if not isinstance(message, dict):
                raise HostError("the host process sent a malformed answer", ErrorKind.PROTOCOL)
            # What a cancelled or interrupted call left behind has an older id.
            if message.get("id") in (self._sent_id, None):
                return message

    def _line(self, deadline: float | None) -> bytes:
        searched = 0
        while True:
            end = self._received.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._received[:end])
                del self._received[: end + 1]
                return line
            searched = len(self._received)
            if searched > MAX_LINE_BYTES:
                raise HostError("the host process sent an answer that is too long", ErrorKind.PROTOCOL)
            self._receive(deadline)

    def _receive(self, deadline: float | None) -> None:
        remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
        readable, _, _ = select.select([self._socket], [], [], remaining)
        if not readable:
            raise TimeoutError("no answer from the host process in time")
        try:
            data = self._socket.recv(1 << 16)
        except OSError as error:
            raise HostError(f"the host process went away: {error.strerror}", ErrorKind.HOST) from None
        if not data:
            raise HostError("the host process went away", ErrorKind.HOST)
        self._received += data

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def _raise_error(message: dict[str, Any]) -> None:
    error = message.get("error")
    if error is None:
        return
    try:
        kind = ErrorKind(error.get("kind"))
    except ValueError:
        kind = ErrorKind.INTERNAL
    raise HostError(str(error.get("message")), kind, error.get("errno"))


class Stream(Generic[E, R]):
    """The events of a running stream call. Iterate it, or ``read`` with a time limit; ``result`` is set at the end. Close it after use."""

    def __init__(self, connection: _Connection, method: StreamMethod[Any, E, R]) -> None:
        self._connection = connection
        self._method = method
        self.result: R | None = None

    def read(self, timeout: float | None = None) -> E | None:
        """The next event, or None after the last. ``timeout`` in seconds. Raises ``TimeoutError``, ``HostError``."""
        while self.result is None:
            message = self._connection.answer(timeout)
            _raise_error(message)
            if "event" in message:
                return wire.decode(self._method.event, message["event"], "event")
            if "result" in message:
                self.result = wire.decode(self._method.result, message["result"], "result")
        return None

    def __iter__(self) -> Iterator[E]:
        while True:
            event = self.read()
            if event is None:
                return
            yield event

    def fileno(self) -> int:
        """For ``select``. Several events may wait behind one readiness: ``read(0)`` until TimeoutError."""
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Client:
    """A connection to the host of one run-time folder. Any thread may call; calls of one client go one after another."""

    def __init__(self, runtime: RuntimeDirectory, stream: socket.socket) -> None:
        self.runtime = runtime
        self._connection = _Connection(stream)
        self._lock = threading.Lock()

    def call(
        self,
        method: Method[P, R],
        parameters: P,
        *,
        timeout: float | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> R:
        """Do one call and return its result. ``timeout`` in seconds between messages.

        Raises ``HostError`` (refused, failed, host gone), ``TimeoutError``.
        """
        with self._lock:
            self._connection.request(method.name, parameters)
            while True:
                message = self._connection.answer(timeout)
                _raise_error(message)
                if "result" in message:
                    return wire.decode(method.result, message["result"], "result")
                if progress is not None and "progress" in message:
                    progress(wire.decode(Progress, message["progress"], "progress"))

    def stream(self, method: StreamMethod[P, E, R], parameters: P) -> Stream[E, R]:
        """Begin a stream, on a connection of its own. Raises ``HostError``."""
        stream = _open_socket(self.runtime)
        if stream is None:
            raise HostError("the host process went away", ErrorKind.HOST)
        connection = _Connection(stream)
        try:
            connection.request(method.name, parameters)
        except HostError:
            connection.close()
            raise
        return Stream(connection, method)

    def wait_for_exit(self, timeout: float = 30.0) -> None:
        """After ``HOST_STOP``: return when the process is gone. Raises ``HostError`` if it is not within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while host_is_alive(self.runtime):
            if time.monotonic() > deadline:
                raise HostError(f"the host process did not end within {timeout:g} s", ErrorKind.TIMEOUT)
            time.sleep(0.02)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def connect(
    runtime_directory: str | os.PathLike[str] | None = None,
    *,
    start: bool = True,
    memory_bytes: int | None = None,
    processors: int | None = None,
    metrics: str | None = None,
) -> Client:
    """Connect to the host of a run-time folder (None: the default one), and start it if it does not run and ``start`` is true.

    ``memory_bytes`` is the machine memory of a host that is started; ``processors`` its number of physical CPUs; None: the defaults;
    ``metrics``: HOST:PORT at which it serves Prometheus metrics; None: nowhere.
    Raises ``HostError`` with kind HOST when there is no host or it can't be started.
    """
    runtime = RuntimeDirectory(runtime_directory)
    try:
        if runtime.exists():
            runtime.check()
            stream = _open_socket(runtime)
            if stream is not None:
                return Client(runtime, stream)
        if not start:
            raise HostError(f"no host process runs for {runtime.path}; start one with: pyxen host start", ErrorKind.HOST)
        runtime.prepare()
    except RuntimeDirectoryError as error:
        raise HostError(str(error), ErrorKind.HOST) from None
    return _start_and_connect(runtime, memory_bytes, processors, metrics)


def host_is_alive(runtime: RuntimeDirectory) -> bool:
    """Whether some process holds the host's lock: the kernel drops it when the process dies, however it dies."""
    try:
        descriptor = os.open(runtime.host_pid, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _open_socket(runtime: RuntimeDirectory) -> socket.socket | None:
    """A connected control socket, or None when no host listens there."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.connect(str(runtime.host_socket))
    except OSError as error:
        stream.close()
        if error.errno in (errno.ENOENT, errno.ECONNREFUSED):
            return None
        raise HostError(f"{runtime.host_socket}: {error.strerror}", ErrorKind.HOST, error.errno) from None
    if _peer_is_dying(stream):
        stream.close()
        return None
    return stream


def _peer_is_dying(stream: socket.socket) -> bool:
    """Whether the process at the other end was killed: until the last of its threads has ended, its socket still takes connections."""
    pid, _, _ = struct.unpack("3i", stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if pid <= 0:
        return False  # of another process namespace: nothing can be seen of it
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)
    except OSError:
        return True
    killed = int(status.get("SigPnd", "0"), 16) >> (signal.SIGKILL - 1) & 1
    return bool(killed) or status.get("State", "R")[0] in "ZX"


def _open_private(path: str, flags: int) -> int:
    """For files that only their owner may read, whatever the caller's umask is."""
    return os.open(path, flags, 0o600)


def _start_and_connect(runtime: RuntimeDirectory, memory_bytes: int | None, processors: int | None, metrics: str | None) -> Client:
    with open(runtime.start_lock, "a", encoding="ascii", opener=_open_private) as lock:
        # Of several clients at once, the first starts the host; the others find it running when the lock is theirs.
        fcntl.flock(lock, fcntl.LOCK_EX)
        stream = _open_socket(runtime)
        if stream is None:
            _start_host(runtime, memory_bytes, processors, metrics)
            stream = _open_socket(runtime)
    if stream is None:
        raise HostError(f"the host process ended at once; see {runtime.host_log}", ErrorKind.HOST)
    return Client(runtime, stream)


def _start_host(runtime: RuntimeDirectory, memory_bytes: int | None, processors: int | None, metrics: str | None) -> None:
    """Start the host detached from us and return when it is ready. Raises ``HostError`` with what the host said."""
    ready_read, ready_write = os.pipe()
    arguments = [sys.executable, "-m", "pyxen.host", "--runtime-dir", str(runtime.path), "--ready-fd", str(ready_write)]
    if memory_bytes is not None:
        arguments += ["--memory", str(memory_bytes)]
    if processors is not None:
        arguments += ["--cpus", str(processors)]
    if metrics is not None:
        arguments += ["--metrics", metrics]
    try:
        with open(runtime.host_log, "ab", opener=_open_private) as log, contextlib.ExitStack() as cleanup:
            cleanup.callback(os.close, ready_write)
            process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(ready_write,),
                start_new_session=True,
                cwd="/",
                env=_host_environment(),
            )
        message = _read_readiness(ready_read)
    except OSError as error:
        raise HostError(f"the host process can't be started: {error.strerror}", ErrorKind.HOST, error.errno) from None
    finally:
        os.close(ready_read)
    if message is None:
        process.terminate()
        raise HostError(f"the host process was not ready after {START_TIMEOUT:g} s; see {runtime.host_log}", ErrorKind.HOST)
    if message != "ready":
        raise HostError(message or f"the host process failed to start; see {runtime.host_log}", ErrorKind.HOST)


def _host_environment() -> dict[str, str]:
    """Our environment, with the folder that this very package was found in: the host works from ``/``."""
    environment = dict(os.environ)
    package_parent = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = package_parent + (os.pathsep + inherited if inherited else "")
    return environment


def _read_readiness(descriptor: int) -> str | None:
    """What the host wrote before it closed its end: "ready", or one line of error. None: too late."""
    deadline = time.monotonic() + START_TIMEOUT
    received = b""
    while True:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return None
        data = os.read(descriptor, 4096)
        if not data:
            return received.decode("utf-8", "replace").strip()
        received += data
