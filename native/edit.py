"""A change to the engine's sources: where, what, and why.

Each edit names an anchor that must occur exactly once in its file, so a source package of another version fails loudly instead of
being changed in the wrong place. Where a function of the engine is to do nothing of what it did, the edit returns at its start: the
rest stays and the compiler drops it.
"""

from __future__ import annotations

from dataclasses import dataclass

AFTER, BEFORE, REPLACE = "after", "before", "replace"


@dataclass(frozen=True)
class Edit:
    path: str
    why: str
    anchor: str
    where: str
    text: str


ACCEL = "src/qemu/accel/tcg/"
I386 = "src/qemu/target/i386/"
