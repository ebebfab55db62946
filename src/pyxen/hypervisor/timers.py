"""Timers of the hypervisor: one thread, one heap. Callbacks run with the hypervisor lock held.

Deadlines are in system time (nanoseconds since the hypervisor started), the time base that guests get by pvclock.
"""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable

#: Longest sleep without looking again; bounds the effect of a host clock that jumps.
LONGEST_WAIT_NS = 3600 * 10**9
COMPACT_MINIMUM = 64


class Timer:
    """A pending callback. ``cancel`` is idempotent; a cancelled timer never fires."""

    __slots__ = ("callback", "deadline_ns")

    def __init__(self, deadline_ns: int, callback: Callable[[], None]) -> None:
        self.deadline_ns = deadline_ns
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Never fire."""
        self.callback = None

    def __lt__(self, other: Timer) -> bool:
        return self.deadline_ns < other.deadline_ns


class TimerQueue:
    """``now`` gives system time; ``changed`` is on the hypervisor's lock."""

    def __init__(self, changed: threading.Condition, now: Callable[[], int], failed: Callable[[BaseException], None]) -> None:
        self._now = now
        self._failed = failed
        self._heap: list[Timer] = []
        self._compact_at = COMPACT_MINIMUM
        self._changed = changed
        #: When the thread looks again by itself. A guest that goes idle and wakes moves its timer to and fro: to wake the thread each time
        #: costs more than that it looks once in vain.
        self._looks_again_ns = 0
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="pyxen-timers", daemon=True)
        self._thread.start()

    def add(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Call ``callback`` at ``deadline_ns``, or at once if that has passed. Lock held."""
        if len(self._heap) >= self._compact_at:
            self._compact()
        timer = Timer(deadline_ns, callback)
        heapq.heappush(self._heap, timer)
        if deadline_ns < self._looks_again_ns:
            self._looks_again_ns = deadline_ns
            self._changed.notify()
        return timer

    def _compact(self) -> None:
        """Drop cancelled timers, so that a guest that re-arms for ever does not grow the heap."""
        self._heap = [timer for timer in self._heap if timer.callback is not None]
        heapq.heapify(self._heap)
        self._compact_at = max(COMPACT_MINIMUM, 2 * len(self._heap))

    def _run(self) -> None:
        with self._changed:
            while not self._stop:
                while self._heap and (self._heap[0].callback is None or self._heap[0].deadline_ns <= self._now()):
                    callback = heapq.heappop(self._heap).callback
                    if callback is not None:
                        try:
                            callback()
                        except Exception as error:
                            self._failed(error)
                now = self._now()
                self._looks_again_ns = now + LONGEST_WAIT_NS
                if self._heap:
                    self._looks_again_ns = min(self._looks_again_ns, self._heap[0].deadline_ns)
                self._changed.wait((self._looks_again_ns - now) / 1e9)

    def close(self) -> None:
        """Stop the thread; pending timers never fire. Lock not held."""
        with self._changed:
            self._stop = True
            self._changed.notify()
        self._thread.join()
