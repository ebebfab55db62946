"""The recent output of one console, kept in memory for readers that come late or read slowly."""

from __future__ import annotations

import asyncio


class ConsoleHistory:
    """A window of bounded size onto an endless stream. A position is a count of bytes since the console's first.

    Writing never waits for a reader: one that is slower than the window loses what left it, and can tell by the position. Used from
    the event loop's thread only.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._data = bytearray()
        self._end = 0
        self._closed = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def start(self) -> int:
        """Position of the oldest byte kept."""
        return self._end - len(self._data)

    @property
    def end(self) -> int:
        """Position after the newest byte."""
        return self._end

    def append(self, data: bytes) -> None:
        self._data += data
        self._end += len(data)
        # Trimmed in large steps, so that a small write does not move the whole window.
        if len(self._data) > self._capacity + self._capacity // 4:
            del self._data[: len(self._data) - self._capacity]
        self._wake()

    def close(self) -> None:
        """No more output will come: readers get the rest and then the end."""
        self._closed = True
        self._wake()

    async def read(self, position: int, limit: int) -> tuple[int, bytes]:
        """Up to ``limit`` bytes from ``position``, or from the oldest byte if that is gone: (position of the first, bytes). Waits for
        output; empty bytes are the end."""
        while position >= self._end:
            if self._closed:
                return self._end, b""
            waiting = asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            await waiting
        first = max(position, self.start)
        offset = first - self.start
        return first, bytes(self._data[offset : offset + limit])

    def tail(self, limit: int) -> bytes:
        """The newest bytes, ``limit`` at most."""
        return bytes(self._data[-limit:])

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)
