"""The shared page between a console's frontend and its backend (public/io/console.h): two byte rings with free-running indexes."""

from __future__ import annotations

from pyxen.abi.io.console import xencons_interface

_INDEX_MASK = 0xFFFFFFFF


class ConsoleRingError(Exception):
    """The guest's indexes make no sense; the guest is at fault. Its ring is left alone until they do."""


class ConsoleRing:
    """The backend's side. Everything in the page is the guest's to scribble on: indexes are checked at each use, data is only bytes."""

    def __init__(self, page: memoryview) -> None:
        self._page = page
        self._interface = xencons_interface.from_buffer(page)
        self._output = _ring_view(page, "out")
        self._input = _ring_view(page, "in_")

    def take_output(self, limit: int) -> bytes:
        """Remove and return up to ``limit`` bytes that the guest wrote. Raises ``ConsoleRingError``."""
        consumer = self._interface.out_cons
        available = _distance(consumer, self._interface.out_prod, len(self._output))
        amount = min(available, limit)
        first = consumer % len(self._output)
        data = bytes(self._output[first : first + amount])
        data += bytes(self._output[: amount - len(data)])
        self._interface.out_cons = (consumer + amount) & _INDEX_MASK
        return data

    def put_input(self, data: bytes) -> int:
        """Give the guest as many bytes as it has room for. -> how many. Raises ``ConsoleRingError``."""
        producer = self._interface.in_prod
        used = _distance(self._interface.in_cons, producer, len(self._input))
        amount = min(len(data), len(self._input) - used)
        first = producer % len(self._input)
        before_end = min(amount, len(self._input) - first)
        self._input[first : first + before_end] = data[:before_end]
        self._input[: amount - before_end] = data[before_end:amount]
        # Only now may the guest look: x86 keeps the order of stores.
        self._interface.in_prod = (producer + amount) & _INDEX_MASK
        return amount

    def release(self) -> None:
        """Let go of the page, so that it can be unmapped."""
        self._output.release()
        self._input.release()
        del self._interface


def _ring_view(page: memoryview, name: str) -> memoryview:
    field = getattr(xencons_interface, name)
    return page[field.offset : field.offset + field.size]


def _distance(untrusted_consumer: int, untrusted_producer: int, size: int) -> int:
    distance = (untrusted_producer - untrusted_consumer) & _INDEX_MASK
    if distance > size:
        raise ConsoleRingError(f"console ring: producer index {untrusted_producer:#x} is out of step with consumer {untrusted_consumer:#x}")
    return distance
