"""Long hypercalls give way: after a bounded amount of work they are continued as a new execution of the same instruction."""

from __future__ import annotations

#: Elements of a list (mmu_update, mmuext_op, multicall, memory extents) that one execution does.
BUDGET = 512
REGISTER = (1 << 64) - 1


class Preempted(Exception):
    """The hypercall is to be executed again with these arguments (the ones it has are replaced in order)."""

    def __init__(self, *arguments: int) -> None:
        super().__init__()
        self.arguments = tuple(argument & REGISTER for argument in arguments)
