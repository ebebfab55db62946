"""The timer queue, on a clock that the test moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pyxen.hypervisor.timers import COMPACT_MINIMUM, TimerQueue


class Clock:
    """A queue with system time ``now``."""

    def __init__(self) -> None:
        self.now = 1000
        self.lock = threading.RLock()
        self.fired: list[object] = []
        self.failures: list[BaseException] = []
        self.queue = TimerQueue(threading.Condition(self.lock), lambda: self.now, self.failures.append)

    def at(self, deadline: int, name: object = None):  # type: ignore[no-untyped-def]
        with self.lock:
            return self.queue.add(deadline, lambda: self.fired.append(deadline if name is None else name))

    def move_to(self, now: int) -> None:
        """Time passes; the queue looks again, as for any timer that is sooner than its next look."""
        with self.lock:
            self.now = now
            self.queue.add(0, lambda: None)

    def wait_for(self, count: int) -> None:
        end = time.monotonic() + 10
        while len(self.fired) < count and time.monotonic() < end:
            time.sleep(0.001)
        assert len(self.fired) >= count


@pytest.fixture
def clock() -> Iterator[Clock]:
    clock = Clock()
    yield clock
    clock.queue.close()


def test_in_order_of_deadlines(clock: Clock) -> None:
    far = 1 << 61
    for deadline in (far + 30, far + 10, far + 20, far + 40):
        clock.at(deadline)
    clock.move_to(far + 30)
    clock.wait_for(3)
    assert clock.fired == [far + 10, far + 20, far + 30]
    clock.move_to(far + 50)
    clock.wait_for(4)


def test_what_has_passed_fires_at_once(clock: Clock) -> None:
    clock.at(0, "past")
    clock.at(1000, "now")
    clock.wait_for(2)


def test_cancelled(clock: Clock) -> None:
    far = 1 << 60
    first, second = clock.at(far, 1), clock.at(far + 1, 2)
    with clock.lock:
        first.cancel()
        first.cancel()
    clock.move_to(far + 2)
    clock.wait_for(1)
    with clock.lock:
        second.cancel()
    assert clock.fired == [2]


def test_a_callback_may_cancel_and_add(clock: Clock) -> None:
    far = 1 << 60
    victim = clock.at(far + 1, "victim")

    def callback() -> None:
        victim.cancel()
        clock.queue.add(far + 1, lambda: clock.fired.append("added"))

    with clock.lock:
        clock.queue.add(far, callback)
    clock.move_to(far + 5)
    clock.wait_for(1)
    assert clock.fired == ["added"]


def test_a_failing_callback(clock: Clock) -> None:
    def fail() -> None:
        raise KeyError("broken")

    with clock.lock:
        clock.queue.add(0, fail)
    clock.at(0, "after")
    clock.wait_for(1)
    assert [type(failure) for failure in clock.failures] == [KeyError]


def test_rearming_for_ever_does_not_grow_the_heap(clock: Clock) -> None:
    far = 1 << 62
    kept = [clock.at(far + number) for number in range(10)]
    for number in range(20 * COMPACT_MINIMUM):
        timer = clock.at(far + number)
        with clock.lock:
            timer.cancel()
    assert len(clock.queue._heap) <= COMPACT_MINIMUM
    clock.move_to(far + 10)
    clock.wait_for(len(kept))
    assert clock.fired == [far + number for number in range(10)]


def test_many_that_live_are_not_searched_each_time(clock: Clock) -> None:
    far = 1 << 62
    for number in range(5 * COMPACT_MINIMUM):
        clock.at(far + number)
    assert clock.queue._compact_at >= 4 * COMPACT_MINIMUM


def test_real_time() -> None:
    """The thread sleeps until the deadline, and not longer when an earlier one comes."""
    lock = threading.RLock()
    queue = TimerQueue(threading.Condition(lock), time.monotonic_ns, lambda error: None)
    fired = threading.Event()
    with lock:
        queue.add(time.monotonic_ns() + 10**13, fired.set)
        queue.add(time.monotonic_ns() + 10_000_000, fired.set)
    assert fired.wait(10)
    queue.close()
