"""The pseudo-terminal through which programs on the host reach a guest's console."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Callable
from pathlib import Path

#: Output kept for a terminal whose reader is slow or absent; the oldest goes first, as in xenconsoled.
_PENDING_LIMIT = 16 << 10
_READ_SIZE = 1024


class PseudoTerminal:
    """A raw-mode terminal: ``path`` is its slave side. Nothing here ever blocks the event loop.

    ``on_input`` gets what was typed; reading stops between ``pause_input`` and ``resume_input``.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, on_input: Callable[[bytes], None]) -> None:
        self._loop = loop
        self._on_input = on_input
        self._pending = bytearray()
        self._writing = False
        self._reading = False
        # Our own slave descriptor stays open: without it, each program that closes the terminal would hang it up.
        self._master, self._slave = os.openpty()
        try:
            tty.setraw(self._slave)
            os.set_blocking(self._master, False)
            self.path = Path(os.ttyname(self._slave))
            self.resume_input()
        except BaseException:
            self.close()
            raise

    def write(self, data: bytes) -> None:
        """Output for whoever has the terminal open."""
        self._pending += data
        if len(self._pending) > _PENDING_LIMIT:
            del self._pending[: len(self._pending) - _PENDING_LIMIT]
        if not self._writing:
            self._flush()

    def _flush(self) -> None:
        try:
            written = os.write(self._master, self._pending)
        except BlockingIOError:
            written = 0
        except OSError:
            written = len(self._pending)
        del self._pending[:written]
        if self._pending and not self._writing:
            self._loop.add_writer(self._master, self._flush)
            self._writing = True
        elif not self._pending and self._writing:
            self._loop.remove_writer(self._master)
            self._writing = False

    def _read(self) -> None:
        try:
            data = os.read(self._master, _READ_SIZE)
        except OSError:
            data = b""
        if data:
            self._on_input(data)

    def pause_input(self) -> None:
        if self._reading:
            self._loop.remove_reader(self._master)
            self._reading = False

    def resume_input(self) -> None:
        if not self._reading:
            self._loop.add_reader(self._master, self._read)
            self._reading = True

    def close(self) -> None:
        self.pause_input()
        if self._writing:
            self._loop.remove_writer(self._master)
            self._writing = False
        for descriptor in (self._master, self._slave):
            with contextlib.suppress(OSError):
                os.close(descriptor)
