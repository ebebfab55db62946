from __future__ import annotations

import asyncio
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxen.abi.io import xs_wire
from pyxen.xenstore import socket_server
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.socket_server import SocketInUseError, SocketServer
from pyxen.xenstore.wire import HEADER
from tests.unit.xenstore.served_socket import ServedSocket, SocketClient


@pytest.fixture
def served() -> Iterator[ServedSocket]:
    with ServedSocket() as served:
        yield served


@pytest.fixture
def client(served: ServedSocket) -> Iterator[SocketClient]:
    client = SocketClient(served.path)
    yield client
    client.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_only_the_owner_may_connect(served: ServedSocket) -> None:
    assert stat.S_IMODE(served.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700


def test_other_users_are_refused_even_if_they_get_in(served: ServedSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert socket_server.may_connect(0)
    assert socket_server.may_connect(os.getuid())
    assert not socket_server.may_connect(os.getuid() + 1)
    monkeypatch.setattr(socket_server, "may_connect", lambda uid: uid != os.getuid())
    with pytest.raises((EOFError, ConnectionError)):
        SocketClient(served.path).read("/tool")


def test_domain_0s_rights(client: SocketClient) -> None:
    client.send(xs_wire.XS_WRITE, b"/a\0value")
    assert client.receive() == (xs_wire.XS_WRITE, 1, b"OK\0")
    assert client.read("/a") == b"value"
    client.send(xs_wire.XS_CONTROL, b"check\0")
    assert client.receive() == (xs_wire.XS_CONTROL, 1, b"OK\0")


def test_many_requests_at_once(client: SocketClient) -> None:
    client.send(xs_wire.XS_WRITE, b"/a\0value")
    client.receive()
    count = 5000
    sent = b"".join(HEADER.pack(xs_wire.XS_READ, number, 0, 3) + b"/a\0" for number in range(count))
    client.socket.setblocking(False)
    received = bytearray()
    deadline = time.monotonic() + 30
    while len(received) < count * (HEADER.size + 5):
        assert time.monotonic() < deadline
        try:
            sent = sent[client.socket.send(sent) :] if sent else sent
        except BlockingIOError:
            pass
        try:
            received += client.socket.recv(65536)
        except BlockingIOError:
            time.sleep(0.001)
    size = HEADER.size + 5
    assert [HEADER.unpack_from(received, offset)[1] for offset in range(0, len(received), size)] == list(range(count))


def test_another_is_served_meanwhile(served: ServedSocket, client: SocketClient) -> None:
    """One that sends without end and never reads holds up nobody."""
    served.in_loop(lambda: served.store.write("/a", "x" * 4000))
    request = HEADER.pack(xs_wire.XS_READ, 1, 0, 3) + b"/a\0"
    client.socket.setblocking(False)
    sent = 0
    for _ in range(200):
        try:
            sent += client.socket.send(request * 1000)
        except BlockingIOError:
            time.sleep(0.001)
    other = SocketClient(served.path)
    assert len(other.read("/a")) == 4000
    assert sent < 4_000_000, "it was not read any further"
    other.close()


def test_a_client_that_never_reads_its_events_is_dropped(
    served: ServedSocket, client: SocketClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_server, "MAX_OUTPUT", 200_000)
    client.send(xs_wire.XS_WATCH, b"/w\0" + b"t" * 1000 + b"\0")
    client.receive()

    def change() -> None:
        for index in range(1000):
            served.store.write(f"/w/{index}", "")

    for _ in range(3):
        served.in_loop(change)
        served.in_loop(lambda: served.store.rm("/w"))
    until(lambda: served.in_loop(lambda: not served.daemon.clients))
    assert served.in_loop(lambda: list(served.daemon.watches)) == []


def test_what_a_client_had_open_ends_with_it(served: ServedSocket, client: SocketClient) -> None:
    client.send(xs_wire.XS_WATCH, b"/w\0T\0")
    client.send(xs_wire.XS_TRANSACTION_START, b"\0")
    client.receive()
    until(lambda: served.in_loop(lambda: len(list(served.daemon.watches)) == 1))
    client.close()
    until(lambda: served.in_loop(lambda: not served.daemon.clients))
    assert served.in_loop(lambda: list(served.daemon.watches)) == []


def test_too_long_a_message_ends_the_connection(served: ServedSocket, client: SocketClient) -> None:
    client.socket.sendall(HEADER.pack(xs_wire.XS_READ, 1, 0, 4097))
    with pytest.raises(EOFError):
        client.receive()
    other = SocketClient(served.path)
    assert other.read("/tool") == b""
    other.close()


def test_one_store_for_a_path(served: ServedSocket) -> None:
    async def second() -> None:
        await SocketServer(Daemon(asyncio.get_running_loop()), served.path).start()

    with pytest.raises(SocketInUseError):
        asyncio.run(second())
    client = SocketClient(served.path)
    assert client.read("/tool") == b""
    client.close()


async def start_and_stop(path: Path) -> None:
    server = SocketServer(Daemon(asyncio.get_running_loop()), path)
    await server.start()
    assert path.exists()
    await server.stop()
    await server.stop()
    assert not path.exists()


def test_a_socket_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    asyncio.run(start_and_stop(path))


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        asyncio.run(start_and_stop(path))
    assert path.read_text() == "precious"


def test_too_long_a_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="longer than the 107 bytes"):
        asyncio.run(start_and_stop(tmp_path / ("x" * 120)))
