"""Choices made from octets that hypothesis drew in bulk: one draw for a whole structure costs a hundredth of a draw for each of its fields.

The interface is that of ``random.Random``, as far as the fuzzers need it. Octets of zero make the first of several choices and the more
likely of two, so hypothesis's shrinking of the octets makes a structure plainer. Octets that are used up are used again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Octets:
    """``octets`` must not be empty."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._next = 0

    def _take(self, count: int) -> int:
        begin, end = self._next, self._next + count
        size = len(self._octets)
        if end <= size:
            self._next = end % size
            return int.from_bytes(self._octets[begin:end], "big")
        self._next = end % size
        again = self._octets * (count // size + 2)
        return int.from_bytes(again[begin:end], "big")

    def randrange(self, start: int, stop: int | None = None) -> int:
        """At least ``start`` and below ``stop``; with one argument from 0 on."""
        if stop is None:
            start, stop = 0, start
        width = stop - start
        return start + self._take(1 if width <= 256 else (width.bit_length() + 15) // 8) % width

    def choice(self, values: Sequence[T]) -> T:
        """One of them."""
        return values[self.randrange(len(values))]

    def choices(self, values: Sequence[T], k: int) -> list[T]:
        """``k`` of them, the same one more than once, too."""
        return [self.choice(values) for _ in range(k)]

    def random(self) -> float:
        """Above 0 and up to 1: compared with a probability, zeros mean "no"."""
        return 1 - self._take(2) / 65536

    def getrandbits(self, bits: int) -> int:
        """A number of so many bits."""
        return self._take((bits + 7) // 8) & (1 << bits) - 1

    def randbytes(self, count: int) -> bytes:
        """So many octets."""
        return self._take(count).to_bytes(count, "big")


#: What the fuzzers' guests throw. With ``random.Random`` where threads make a replay impossible, and with it shrinking.
Dice = Octets | random.Random


def octets(count: int) -> st.SearchStrategy[Octets]:
    """A strategy for ``Octets`` made of ``count`` octets."""
    return st.binary(min_size=count, max_size=count).map(_Shown)


class _Shown(Octets):
    """Shown in hypothesis's report as it can be typed in again."""

    def __repr__(self) -> str:
        shown = self._octets.rstrip(b"\0")
        return f"Octets({shown!r}.ljust({len(self._octets)}, b'\\0'))"
