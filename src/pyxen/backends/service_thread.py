"""A thread of Domain 0 that serves one device: work that is to be done at once, without waiting for the event loop's other work."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class ServiceThread:
    """Does what it is given, in that order. Work must not raise.

    The thread does not keep the process alive: it may be in the middle of an image on a file system that never answers.
    """

    def __init__(self, name: str) -> None:
        # A SimpleQueue is C code without locks of Python's: it may be put to from a hypervisor's event handler.
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, work: Callable[[], None]) -> None:
        """From any thread. Ignored after ``stop``."""
        self._work.put(work)

    def stop(self) -> None:
        """Let the thread end when it has done what it was given before, and wait for that."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            work()
