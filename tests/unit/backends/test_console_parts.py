"""The parts of the console backend: ring, history, log, budget."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.abi.io.console import xencons_interface
from pyxen.backends.byte_budget import ByteBudget
from pyxen.backends.console_history import ConsoleHistory
from pyxen.backends.console_log import ConsoleLog
from pyxen.backends.console_ring import ConsoleRing, ConsoleRingError


class Frontend:
    """The guest's side of a console page."""

    def __init__(self) -> None:
        self.page = memoryview(bytearray(4096))
        self.shared = xencons_interface.from_buffer(self.page)

    def write(self, data: bytes) -> int:
        room = 2048 - ((self.shared.out_prod - self.shared.out_cons) & 0xFFFFFFFF)
        for octet in data[:room]:
            self.shared.out[self.shared.out_prod % 2048] = octet
            self.shared.out_prod += 1
        return min(room, len(data))

    def read(self) -> bytes:
        data = bytearray()
        while self.shared.in_cons != self.shared.in_prod:
            data.append(self.shared.in_[self.shared.in_cons % 1024])
            self.shared.in_cons += 1
        return bytes(data)


@given(st.lists(st.binary(max_size=3000), max_size=12), st.integers(0, 0xFFFFFFFF))
def test_ring_carries_output_in_order_from_any_index(pieces: list[bytes], start: int) -> None:
    guest = Frontend()
    guest.shared.out_prod = guest.shared.out_cons = start
    ring = ConsoleRing(guest.page)
    sent, received = b"", b""
    for piece in pieces:
        sent += piece[: guest.write(piece)]
        received += ring.take_output(700)
    while data := ring.take_output(700):
        received += data
    assert received == sent


@given(st.lists(st.binary(max_size=1500), max_size=12), st.integers(0, 0xFFFFFFFF))
def test_ring_carries_input_in_order_from_any_index(pieces: list[bytes], start: int) -> None:
    guest = Frontend()
    guest.shared.in_prod = guest.shared.in_cons = start
    ring = ConsoleRing(guest.page)
    sent, received = b"", b""
    for piece in pieces:
        taken = ring.put_input(piece)
        assert taken == min(len(piece), 1024)
        sent += piece[:taken]
        received += guest.read()
    assert received == sent


def test_full_input_ring_takes_nothing() -> None:
    ring = ConsoleRing(Frontend().page)
    assert ring.put_input(bytes(2000)) == 1024
    assert ring.put_input(b"x") == 0


@pytest.mark.parametrize("producer", [2049, 0x80000000, 0xFFFFFFFF])
def test_impossible_output_indexes_are_refused(producer: int) -> None:
    guest = Frontend()
    guest.shared.out_prod = producer
    with pytest.raises(ConsoleRingError):
        ConsoleRing(guest.page).take_output(2048)


def test_impossible_input_indexes_are_refused() -> None:
    guest = Frontend()
    guest.shared.in_cons = 1
    with pytest.raises(ConsoleRingError):
        ConsoleRing(guest.page).put_input(b"x")


def test_released_ring_lets_the_page_go() -> None:
    page = memoryview(bytearray(4096))
    ring = ConsoleRing(page)
    ring.release()
    page.release()


def test_history_forgets_the_oldest_and_tells_by_position() -> None:
    async def scenario() -> None:
        history = ConsoleHistory(100)
        for number in range(100):
            history.append(bytes([number]) * 10)
        first, data = await history.read(0, 1000)
        assert first == history.start > 0
        assert history.end == 1000
        assert 100 <= len(data) <= 125
        assert data.endswith(bytes([99]) * 10)
        assert await history.read(995, 1000) == (995, bytes([99]) * 5)

    asyncio.run(scenario())


def test_history_wakes_every_reader_and_ends() -> None:
    async def scenario() -> None:
        history = ConsoleHistory(100)
        readers = [asyncio.create_task(history.read(0, 10)) for _ in range(3)]
        await asyncio.sleep(0)
        history.append(b"abc")
        assert await asyncio.gather(*readers) == [(0, b"abc")] * 3
        ending = asyncio.create_task(history.read(3, 10))
        await asyncio.sleep(0)
        history.close()
        assert await ending == (3, b"")
        assert await history.read(1, 10) == (1, b"bc")

    asyncio.run(scenario())


def test_cancelled_reader_does_not_disturb_the_others() -> None:
    async def scenario() -> None:
        history = ConsoleHistory(100)
        cancelled, waiting = (asyncio.create_task(history.read(0, 10)) for _ in range(2))
        await asyncio.sleep(0)
        cancelled.cancel()
        history.append(b"x")
        assert await waiting == (0, b"x")

    asyncio.run(scenario())


def test_log_is_bounded_and_keeps_the_newest(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "guest-a.log", 1000)
    for number in range(100):
        log.write(b"%03d" % number * 30)
    log.close()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["guest-a.log", "guest-a.log.1"]
    assert all(file.stat().st_size <= 1000 for file in files)
    assert (tmp_path / "guest-a.log").read_bytes().endswith(b"099")
    assert log.lost == 0


def test_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    for text in (b"first ", b"second"):
        log = ConsoleLog(tmp_path / "log", 1000)
        log.write(text)
        log.close()
    assert (tmp_path / "log").read_bytes() == b"first second"
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_log_does_not_follow_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        ConsoleLog(tmp_path / "log", 1000)


def test_full_disk_is_counted_not_raised() -> None:
    log = ConsoleLog(Path("/dev/full"), 1000)
    log.write(b"lost")
    log.close()
    assert log.lost == 4


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 500)), max_size=30))
def test_budget_never_gives_more_than_rate_and_burst(turns: list[tuple[float, int]]) -> None:
    budget = ByteBudget(100.0, 500, 0.0)
    now, spent = 0.0, 0
    for delay, wanted in turns:
        now += delay
        amount = min(wanted, budget.available(now))
        budget.spend(amount)
        spent += amount
    assert spent <= 500 + 100 * now + 1


def test_budget_says_when_it_is_refilled() -> None:
    budget = ByteBudget(100.0, 500, 0.0)
    budget.spend(budget.available(0.0))
    assert budget.available(0.0) == 0
    assert budget.available(budget.seconds_until(200)) == 200
