"""The user's terminal in raw mode, always put back."""

from __future__ import annotations

import contextlib
import os
import termios
import tty
from collections.abc import Iterator

from pyxen.cli.ending_signals import ending_signals_raise


@contextlib.contextmanager
def raw_terminal(descriptor: int) -> Iterator[None]:
    """Within the context, the terminal passes every key; a descriptor that is no terminal is left alone."""
    if not os.isatty(descriptor):
        yield
        return
    with ending_signals_raise():
        saved = termios.tcgetattr(descriptor)
        try:
            tty.setraw(descriptor, termios.TCSADRAIN)
            yield
        finally:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, saved)
