"""How an event of a guest becomes a turn of the thread that serves it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable


class SingleTurn:
    """Asked for on any thread, with any lock held; done by one. Any number of requests till the turn begins make one turn: a guest that
    does nothing but send events must not fill a queue."""

    def __init__(self, turn: Callable[[], None], call: Callable[[Callable[[], None]], object]) -> None:
        """``call`` hands a callback to the thread that does the turns: ``loop.call_soon_threadsafe``, ``ServiceThread.call``."""
        self._turn = turn
        self._call = call
        self._is_due = False

    def ask(self) -> None:
        """Have a turn soon that sees everything which was so before this call."""
        if not self._is_due:
            self._is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the host is going down
                self._call(self.do)

    def do(self) -> None:
        """A turn now, in the thread that does them."""
        self._is_due = False
        self._turn()
