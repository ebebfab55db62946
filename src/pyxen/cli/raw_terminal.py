"""The user's terminal in raw mode, always put back."""

from __future__ import annotations

import os
import signal
import termios
import tty
from types import FrameType, TracebackType
from typing import Any, Self

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class RawTerminal:
    """Within the context, the terminal on ``descriptor`` passes every key; a descriptor that is no terminal is left alone.

    SIGTERM and SIGHUP end the program by an exception meanwhile, so that the terminal is restored then too.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._saved: list[Any] | None = None
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if os.isatty(self._descriptor):
            for number in _ENDING_SIGNALS:
                self._handlers[number] = signal.signal(number, _end)
            self._saved = termios.tcgetattr(self._descriptor)
            tty.setraw(self._descriptor, termios.TCSADRAIN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._saved is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._saved)
            self._saved = None
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
