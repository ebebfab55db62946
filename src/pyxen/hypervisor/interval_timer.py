"""Channel 2 of the programmable interval timer, with its gate in port 0x61: the one device that Xen emulates for every PV guest
(pv_pit_handler),
because kernels calibrate their clocks with it.
"""

from __future__ import annotations

from collections.abc import Callable

CHANNEL_PORT, COMMAND_PORT, GATE_PORT = 0x42, 0x43, 0x61
PORTS = frozenset((CHANNEL_PORT, COMMAND_PORT, GATE_PORT))
FREQUENCY_HZ = 1193182
GATE, SPEAKER, REFRESH, OUTPUT = 1, 2, 0x10, 0x20
LOW, HIGH, BOTH = 1, 2, 3


class IntervalTimer:
    """Counts down at 1.193182 MHz from what was loaded, while its gate is open. ``now`` gives nanoseconds."""

    def __init__(self, now: Callable[[], int]) -> None:
        self._now = now
        self._reload = 0x10000
        self._mode = 3
        self._access = BOTH
        self._started_ns = 0
        self._gate = 0
        self._write_low: int | None = None
        self._read_high = False
        self._latched: int | None = None

    def read(self, port: int) -> int:
        """One octet."""
        if port == GATE_PORT:
            refresh = REFRESH if self._now() // 15085 & 1 else 0
            return self._gate | refresh | (OUTPUT if self._output() else 0)
        if port == COMMAND_PORT:
            return 0
        value = self._counter() if self._latched is None else self._latched
        if self._access == LOW:
            self._latched = None
            return value & 0xFF
        if self._access == HIGH:
            self._latched = None
            return value >> 8
        self._read_high = not self._read_high
        if self._read_high:
            return value & 0xFF
        self._latched = None
        return value >> 8

    def write(self, port: int, untrusted: int) -> None:
        """One octet."""
        if port == GATE_PORT:
            if untrusted & GATE and not self._gate & GATE:
                self._started_ns = self._now()
            self._gate = untrusted & (GATE | SPEAKER)
        elif port == COMMAND_PORT:
            self._command(untrusted)
        else:
            self._load(untrusted)

    def _command(self, command: int) -> None:
        if command >> 6 != 2:
            return
        access = command >> 4 & 3
        if not access:
            self._latched = self._counter()
            self._read_high = False
            return
        self._access = access
        self._mode = command >> 1 & 7
        self._write_low, self._read_high, self._latched = None, False, None

    def _load(self, octet: int) -> None:
        if self._access == BOTH and self._write_low is None:
            self._write_low = octet
            return
        value = octet if self._access == LOW else octet << 8 | (self._write_low or 0)
        self._write_low = None
        self._reload = value or 0x10000
        self._started_ns = self._now()

    def _elapsed(self) -> int:
        return (self._now() - self._started_ns) * FREQUENCY_HZ // 10**9 if self._gate & GATE else 0

    def _counter(self) -> int:
        elapsed = self._elapsed()
        if self._mode in (0, 1, 4, 5):
            return (self._reload - elapsed) & 0xFFFF
        return (self._reload - elapsed % self._reload) & 0xFFFF

    def _output(self) -> bool:
        elapsed = self._elapsed()
        if self._mode in (0, 1):
            return elapsed >= self._reload
        return elapsed % self._reload < (self._reload + 1) // 2
