"""The hypervisor's own log, and what guests can do to it."""

from __future__ import annotations

import errno

import pytest

from pyxen.abi.xen import HYPERVISOR_console_io
from pyxen.hypervisor import console_io, console_ring
from pyxen.hypervisor.console_ring import GUEST_BURST, GUEST_LINES_PER_SECOND, RING_BYTES, ConsoleRing
from tests.unit.hypervisor.machine import SmallDomain


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """[0] is the seconds that ConsoleRing sees."""
    now = [1000.0]
    monkeypatch.setattr(console_ring.time, "monotonic", lambda: now[0])
    return now


def test_bounded(time: list[float]) -> None:
    ring = ConsoleRing()
    for number in range(5000):
        ring.write(f"line {number} " + "x" * 200)
    text = ring.read()
    assert RING_BYTES - 300 < len(text) <= RING_BYTES
    assert text.splitlines()[-1].endswith("x") and "line 4999 " in text and "line 0 " not in text
    assert ring.read(clear=True) == text and ring.read() == ""


def test_one_enormous_line(time: list[float]) -> None:
    ring = ConsoleRing()
    ring.write("x" * (2 * RING_BYTES))
    ring.write("after")
    assert ring.read().endswith("after\n") and len(ring.read()) < RING_BYTES


def test_rate_of_a_guest(time: list[float]) -> None:
    ring = ConsoleRing()
    for number in range(10 * GUEST_BURST):
        ring.write_guest(1, f"flood {number}")
    assert ring.read().count("d1: flood") == GUEST_BURST
    ring.write_guest(2, "quiet")
    assert "d2: quiet" in ring.read(), "each domain has its own allowance"
    time[0] += 1.01
    for number in range(1000):
        ring.write_guest(1, f"again {number}")
    text = ring.read()
    assert text.count("d1: again") == GUEST_LINES_PER_SECOND
    assert f"d1: {9 * GUEST_BURST} messages suppressed" in text
    time[0] += 1e6
    for number in range(10 * GUEST_BURST):
        ring.write_guest(1, f"much later {number}")
    assert ring.read().count("much later") == GUEST_BURST, "what is not used is not saved up"
    ring.forget(1)
    ring.write_guest(1, "a new domain of that id")
    assert "a new domain of that id" in ring.read()


def test_sink_gets_each_line(time: list[float]) -> None:
    ring, lines = ConsoleRing(), []
    ring.sink = lines.append
    ring.write("one")
    assert len(lines) == 1 and lines[0].endswith(") one")


def console(guest: SmallDomain, data: bytes, count: int | None = None) -> int:
    return guest.call(HYPERVISOR_console_io, 0, len(data) if count is None else count, guest.write(guest.at(2), data))


def logged(guest: SmallDomain) -> list[str]:
    prefix = f"d{guest.domid}: "
    return [line.split(prefix, 1)[1] for line in guest.dom0.read_console_ring().splitlines() if prefix in line]


def test_lines(guest: SmallDomain) -> None:
    assert console(guest, b"first\nsecond\r\nthi") == 0
    assert logged(guest) == ["first", "second"]
    assert console(guest, b"rd\n") == 0
    assert logged(guest)[2:] == ["third"]


def test_control_characters(guest: SmallDomain) -> None:
    assert console(guest, b"\x1b[2J\x07 caf\xe9\n") == 0
    assert logged(guest) == ["?[2J? caf?"]


def test_longer_than_a_page(guest: SmallDomain) -> None:
    text = b"".join(b"%079d\n" % number for number in range(150))
    assert len(text) > 2 * console_io.LONGEST_WRITE
    assert console(guest, text) == 0
    assert logged(guest) == [f"{number:079d}" for number in range(150)]


def test_without_line_ends(guest: SmallDomain) -> None:
    for _ in range(20):
        assert console(guest, b"x" * 4096) == 0
    assert len(guest.domain.console_tail) <= console_io.LONGEST_LINE
    assert console(guest, b"\n") == 0
    assert logged(guest) == ["x" * console_io.LONGEST_LINE]


def test_refused(guest: SmallDomain) -> None:
    assert console(guest, b"", count=1 << 31) == -errno.E2BIG
    assert console(guest, b"abc\n", count=(1 << 32) + 4) == 0, "the count has 32 bits"
    assert guest.call(HYPERVISOR_console_io, 0, 4, 0x8000) == -errno.EFAULT
    assert guest.call(HYPERVISOR_console_io, 0, 0, 0x8000) == 0
    assert guest.call(HYPERVISOR_console_io, 1, 4, guest.at(0)) == -errno.EPERM
    assert logged(guest) == ["abc"]
