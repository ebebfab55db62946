"""Long hypercalls give way: after a bounded amount of work or time they are continued as a new execution of the same instruction.

The count makes a list's progress predictable; the time bounds lists whose elements are slow (SPECIFICATION.md has the number that results).
"""

from __future__ import annotations

import time

#: Elements of a list (mmu_update, mmuext_op, multicall, memory extents) that one execution does.
BUDGET = 512
#: Nanoseconds after which work gives way even if its budget is not used up.
SLICE_NS = 2_000_000
REGISTER = (1 << 64) - 1


class Preempted(Exception):
    """The hypercall is to be executed again with these arguments (the ones it has are replaced in order)."""

    def __init__(self, *arguments: int) -> None:
        super().__init__()
        self.arguments = tuple(argument & REGISTER for argument in arguments)


class Slice:
    """The time that one piece of work may take, from when it is made."""

    __slots__ = ("_end",)

    def __init__(self) -> None:
        self._end = time.monotonic_ns() + SLICE_NS

    @property
    def over(self) -> bool:
        """Whether it is time to let others have the lock. Ask after an element, so that there is progress."""
        return time.monotonic_ns() >= self._end
