"""SIGTERM and SIGHUP as exceptions: so that what a command has to put back is put back."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def ending_signals_raise() -> Iterator[None]:
    """Within the context these signals end the program by ``SystemExit``, with the status that a shell gives such a death."""
    before = {number: signal.signal(number, _end) for number in _ENDING_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
