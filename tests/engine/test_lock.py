"""The lock that Python and the gate hold alike."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from pyxen.engine.interface import Lock
from pyxen.engine.sandbox import Sandbox


class Ended(Exception):
    """What the handler of the signal raises."""


@pytest.fixture
def alarm() -> Iterator[None]:
    """SIGALRM raises ``Ended`` in the main thread."""

    def end(*_: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGALRM, end)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def is_free(lock: Lock) -> bool:
    """Whether another thread gets it."""
    got = threading.Event()

    def take() -> None:
        with lock:
            got.set()

    threading.Thread(target=take, daemon=True).start()
    return got.wait(2)


def test_recursion_and_release(box: Sandbox) -> None:
    lock = box.engine.lock
    with lock, lock:
        lock.acquire()
        lock.release()
    assert is_free(lock)
    with pytest.raises(RuntimeError, match="not held"):
        lock.release()


def test_a_condition_gives_it_up_whole(box: Sandbox) -> None:
    lock = box.engine.lock
    condition = lock.condition()
    with lock, lock:
        assert not condition.wait(0.01)
        assert not condition.wait_for(lambda: False, 0.01)
    assert is_free(lock)


def test_an_exception_gives_it_back(box: Sandbox) -> None:
    with pytest.raises(Ended), box.engine.lock:
        raise Ended
    assert is_free(box.engine.lock)


@pytest.mark.usefixtures("alarm")
def test_a_signal_ends_a_wait(box: Sandbox) -> None:
    """Its handler runs while the thread waits, and what it raises ends the wait."""
    lock = box.engine.lock
    taken, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            taken.set()
            done.wait(20)

    holder = threading.Thread(target=hold)
    holder.start()
    taken.wait()
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(Ended):
        lock.acquire()
    done.set()
    holder.join()
    assert is_free(lock)


@pytest.mark.usefixtures("alarm")
def test_a_signal_leaves_nothing_taken(box: Sandbox) -> None:
    """Whenever it comes: before, in, between and after the lock's calls."""
    lock = box.engine.lock
    for number in range(2000):
        with contextlib.suppress(Ended):
            signal.setitimer(signal.ITIMER_REAL, 20e-6 + number % 200 * 1e-6)
            while True:
                with lock:
                    pass
        if number % 100 == 0:
            assert is_free(lock), f"after signal {number}"
    assert is_free(lock)


def test_others_get_it_from_a_busy_thread(box: Sandbox) -> None:
    lock = box.engine.lock
    end = threading.Event()

    def hold_nearly_always() -> None:
        while not end.is_set():
            with lock:
                time.sleep(0.001)

    holder = threading.Thread(target=hold_nearly_always)
    holder.start()
    for _ in range(100):
        with lock:
            pass
    end.set()
    holder.join()
