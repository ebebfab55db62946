"""The console backend with a guest that is a page in this process, and a real pseudo-terminal, log file and event loop."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

import pytest

from pyxen.abi.io.console import xencons_interface
from pyxen.backends import console as console_module
from pyxen.backends.console import ConsoleBackend, GuestConsole
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError


class OneGuest:
    """The hypercalls that the backend makes, for a guest with one page. ``fail`` names one to refuse."""

    def __init__(self) -> None:
        self.memory = bytearray(4096)
        self.shared = xencons_interface.from_buffer(self.memory)
        self.mapped = 0
        self.bound = 0
        self.notified = 0
        self.fail = ""
        self.handler: Callable[[], None] = lambda: None

    def _check(self, name: str) -> None:
        if name == self.fail:
            raise HypercallError(errno.EINVAL, name)

    def map_foreign(self, domid: int, mfn: int) -> memoryview:
        self._check("map_foreign")
        self.mapped += 1
        return memoryview(self.memory)

    def unmap_foreign(self, domid: int, mfn: int) -> None:
        self.mapped -= 1

    def bind_interdomain(self, domid: int, port: int, handler: Callable[[], None]) -> int:
        self._check("bind_interdomain")
        self.bound += 1
        self.handler = handler
        return 7

    def close_port(self, port: int) -> None:
        self._check("close_port")
        self.bound -= 1

    def notify(self, port: int) -> None:
        self._check("notify")
        self.notified += 1

    def write(self, data: bytes) -> int:
        room = 2048 - ((self.shared.out_prod - self.shared.out_cons) & 0xFFFFFFFF)
        for octet in data[:room]:
            self.shared.out[self.shared.out_prod % 2048] = octet
            self.shared.out_prod += 1
        self.handler()
        return min(room, len(data))

    def read(self) -> bytes:
        data = bytearray()
        while self.shared.in_cons != self.shared.in_prod:
            data.append(self.shared.in_[self.shared.in_cons % 1024])
            self.shared.in_cons += 1
        self.handler()
        return bytes(data)


Scenario = Callable[[ConsoleBackend, OneGuest], Awaitable[None]]


def run(tmp_path: Path, scenario: Scenario) -> None:
    """A backend in a loop of its own; afterwards nothing of it may be left."""

    async def main() -> None:
        guest = OneGuest()
        for name in ("console", "log"):
            (tmp_path / name).mkdir(exist_ok=True)
        gc.collect()  # what other tests left to the collector does not count
        before = os.listdir("/proc/self/fd")
        backend = ConsoleBackend(cast(Dom0Hypercalls, guest), asyncio.get_running_loop(), tmp_path / "console", tmp_path / "log")
        await scenario(backend, guest)
        guest.fail = ""
        backend.close()
        assert (guest.mapped, guest.bound) == (0, 0)
        assert list((tmp_path / "console").iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) == len(before)

    asyncio.run(asyncio.wait_for(main(), 30))


def connect(backend: ConsoleBackend) -> GuestConsole:
    return backend.connect(5, "guest", 0x1234, 3)


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_output_reaches_history_log_and_terminal(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        link = tmp_path / "console" / "5"
        assert link.resolve() == console.terminal_path
        terminal = os.open(link, os.O_RDWR | os.O_NOCTTY)
        guest.write(b"Linux version 6.1\r\n")
        assert await console.history.read(0, 100) == (0, b"Linux version 6.1\r\n")
        assert (tmp_path / "log" / "guest-guest.log").read_bytes() == b"Linux version 6.1\r\n"
        assert os.read(terminal, 100) == b"Linux version 6.1\r\n"
        assert guest.notified == 1
        os.close(terminal)

    run(tmp_path, scenario)


def test_output_from_before_the_connection_is_not_lost(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        guest.write(b"early")
        assert await connect(backend).history.read(0, 100) == (0, b"early")

    run(tmp_path, scenario)


def test_output_left_in_the_ring_is_kept_at_the_end(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        guest.handler = lambda: None
        guest.write(b"last words")
        backend.disconnect(5)
        assert console.history.tail(100) == b"last words"
        assert await console.history.read(10, 1) == (10, b"")

    run(tmp_path, scenario)


def test_typed_text_reaches_the_guest_raw(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        terminal = os.open(console.terminal_path, os.O_RDWR | os.O_NOCTTY)
        os.write(terminal, b"ls\r\x03\x04\n")
        await until(lambda: guest.shared.in_prod == 6)
        assert guest.read() == b"ls\r\x03\x04\n"
        assert console.write(b"more") == 4
        await until(lambda: guest.shared.in_prod == 10)
        assert guest.read() == b"more"
        os.close(terminal)

    run(tmp_path, scenario)


def test_guest_that_does_not_read_pushes_back_and_then_gets_everything(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        typed = bytes(range(256)) * 40
        sent = received = b""
        while len(sent) < len(typed):
            taken = console.write(typed[len(sent) : len(sent) + 1000])
            if not taken:
                break
            sent += typed[len(sent) : len(sent) + taken]
            await asyncio.sleep(0)
        assert 1024 <= len(sent) <= 1024 + console_module.INPUT_LIMIT < len(typed)
        while len(received) < len(sent):
            received += guest.read()
            await asyncio.sleep(0)
        assert received == sent
        assert console.write(b"again") == 5

    run(tmp_path, scenario)


def test_flood_is_held_to_the_rate_while_the_loop_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_module, "OUTPUT_RATE", 10_000)
    monkeypatch.setattr(console_module, "OUTPUT_BURST", 20_000)

    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        loop = asyncio.get_running_loop()
        start = loop.time()
        turns = 0
        while loop.time() < start + 0.5:
            guest.write(bytes(4096))
            await asyncio.sleep(0)
            turns += 1
        allowed = 20_000 + 10_000 * (loop.time() - start)
        assert 16_000 < console.history.end <= allowed + 2048
        assert turns > 100
        # and the guest goes on when it may again
        before = console.history.end
        await until(lambda: guest.write(bytes(2048)) >= 0 and console.history.end > before)

    run(tmp_path, scenario)


def test_absent_terminal_reader_never_blocks(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        total = 0
        while total < 100_000:
            total += guest.write(bytes(2048))
            await asyncio.sleep(0)
        await until(lambda: console.history.end == total)
        assert (tmp_path / "log" / "guest-guest.log").stat().st_size == total

    run(tmp_path, scenario)


def test_senseless_indexes_only_hurt_the_guest(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        console = connect(backend)
        guest.shared.out_prod = 0x55555555
        for _ in range(50):
            guest.handler()
            await asyncio.sleep(0)
        assert console.history.end == 0
        guest.shared.out_prod = guest.shared.out_cons
        guest.write(b"sorry")
        assert await console.history.read(0, 10) == (0, b"sorry")

    run(tmp_path, scenario)


@pytest.mark.parametrize("call", ["map_foreign", "bind_interdomain"])
def test_refused_connection_leaves_nothing(tmp_path: Path, call: str) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        guest.fail = call
        with pytest.raises(HypercallError):
            connect(backend)
        assert backend.find(5) is None

    run(tmp_path, scenario)


def test_dying_guest_is_closed_without_complaint(tmp_path: Path) -> None:
    async def scenario(backend: ConsoleBackend, guest: OneGuest) -> None:
        connect(backend)
        guest.write(b"x")
        guest.fail = "notify"
        await asyncio.sleep(0.01)
        guest.fail = "close_port"
        backend.disconnect(5)
        guest.bound -= 1

    run(tmp_path, scenario)
