"""Transfers to and from a list of buffers, by calls that may do a part of the work (preadv, sendmsg)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

#: What one system call takes (IOV_MAX is 1024).
MAX_BUFFERS = 1000


def transfer(call: Callable[[list[memoryview]], int], buffers: Sequence[memoryview]) -> None:
    """Have ``call`` transfer all of the buffers; it says how many bytes of what it was given it has done. ``EOFError`` when it says 0.
    When this returns, nothing that it derived from the buffers is left: whoever gave them wants to unmap them."""
    rest = [buffer for buffer in buffers if len(buffer)]
    derived: memoryview | None = None
    try:
        while rest:
            done = call(rest[:MAX_BUFFERS])
            if not done:
                raise EOFError
            while rest and done >= len(rest[0]):
                done -= len(rest.pop(0))
            if done:
                shorter = rest[0][done:]
                if derived is not None:
                    derived.release()
                derived = rest[0] = shorter
    finally:
        if derived is not None:
            derived.release()
