"""The hypervisor's own log: what ``xl dmesg`` shows.

Bounded like Xen's console ring. Messages that a guest can cause are rate limited per domain, so that a guest can fill neither the
ring nor the host's time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

RING_BYTES = 256 << 10
#: Guest-caused lines: this many at once, and this many a second after that (Xen's guest log rate limit is of the same kind).
GUEST_BURST = 200
GUEST_LINES_PER_SECOND = 20


class ConsoleRing:
    """Lines with the seconds since start. ``sink``, when set, gets each line too (the host writes it to a file)."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque()
        self._bytes = 0
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._allowance: dict[int, tuple[float, float, int]] = {}  # domid -> (tokens, when, suppressed)
        self.sink: Callable[[str], None] | None = None

    def write(self, text: str) -> None:
        """Append one message from the hypervisor itself."""
        line = f"({time.monotonic() - self._start:10.6f}) {text}"
        with self._lock:
            self._lines.append(line)
            self._bytes += len(line) + 1
            while self._bytes > RING_BYTES:
                self._bytes -= len(self._lines.popleft()) + 1
        if self.sink is not None:
            self.sink(line)

    def write_guest(self, domid: int, text: str) -> None:
        """Append a message that domain ``domid`` caused; dropped, and counted, beyond its allowance."""
        tokens, when, suppressed = self._allowance.get(domid, (float(GUEST_BURST), time.monotonic(), 0))
        now = time.monotonic()
        tokens = min(GUEST_BURST, tokens + (now - when) * GUEST_LINES_PER_SECOND)
        if tokens < 1:
            self._allowance[domid] = (tokens, now, suppressed + 1)
            return
        self._allowance[domid] = (tokens - 1, now, 0)
        if suppressed:
            self.write(f"d{domid}: {suppressed} messages suppressed")
        self.write(f"d{domid}: {text}")

    def forget(self, domid: int) -> None:
        """The domain is gone: drop its rate-limit state."""
        self._allowance.pop(domid, None)

    def read(self, *, clear: bool = False) -> str:
        """Everything in the ring, oldest first."""
        with self._lock:
            text = "".join(line + "\n" for line in self._lines)
            if clear:
                self._lines.clear()
                self._bytes = 0
        return text
