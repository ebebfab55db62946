"""Views of guests' frames that Domain 0's programs hold, and how they end with the mapping that they were given for.

A view is released when its mapping is taken back, so a program that goes on using it gets a ValueError. It may have derived others from it
(slices, numpy arrays, ctypes structures), which can't be released from here: until they are gone the mapping's references stay, so the
frame goes to no other owner and to no other use.

All methods are called with the hypervisor lock held.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.hypervisor.timers import Timer

if TYPE_CHECKING:
    from pyxen.hypervisor.hypervisor import Hypervisor

#: How soon views that outlive their mapping are looked at again: more and more seldom.
FIRST_SWEEP_NS, SLOWEST_SWEEP_NS = 1_000_000, 250_000_000


class _View:
    """One view. Everything derived from it refers to the same array object, so that tells whether any of it is left."""

    def __init__(self, hypervisor: Hypervisor, mfn: int, *, writable: bool) -> None:
        page = hypervisor.memory.pages[mfn]
        page.setflags(write=writable)
        self._page = weakref.ref(page)
        self.octets = memoryview(page)

    def revoke(self) -> None:
        """End the view itself, unless something is derived from it."""
        with contextlib.suppress(BufferError):
            self.octets.release()

    @property
    def lives(self) -> bool:
        return self._page() is not None


class FrameViews:
    """Counts mappings by frame and access: the views of a frame end with the last mapping of their kind, whichever that is."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._mappings: dict[tuple[int, bool], int] = {}
        self._views: dict[tuple[int, bool], list[_View]] = {}
        self._outliving: list[tuple[list[_View], Callable[[], None]]] = []
        self._timer: Timer | None = None
        self._period_ns = FIRST_SWEEP_NS

    def give(self, mfn: int, *, writable: bool) -> memoryview:
        """A view of 4096 octets for a new mapping of the frame."""
        key = mfn, writable
        view = _View(self._hypervisor, mfn, writable=writable)
        self._mappings[key] = self._mappings.get(key, 0) + 1
        self._views.setdefault(key, []).append(view)
        return view.octets

    def take_back(self, mfn: int, give_back: Callable[[], None], *, writable: bool) -> bool:
        """A mapping ends. -> True: the caller gives back what it holds now. False: somebody still can use the frame, and ``give_back`` is
        called when that is over."""
        key = mfn, writable
        left = self._mappings[key] - 1
        if left:
            self._mappings[key] = left
            self._views[key] = [view for view in self._views[key] if view.lives]
            return True
        del self._mappings[key]
        views = self._views.pop(key)
        for view in views:
            view.revoke()
        living = [view for view in views if view.lives]
        if not living:
            return True
        self._hypervisor.log(f"d0: a view of frame {mfn:#x} outlives its mapping; the frame stays in use until it is gone")
        self._outliving.append((living, give_back))
        self._period_ns = FIRST_SWEEP_NS
        self._look_again()
        return False

    def _look_again(self) -> None:
        if self._timer is None:
            self._timer = self._hypervisor.timers.add(self._hypervisor.now() + self._period_ns, self._sweep)
            self._period_ns = min(2 * self._period_ns, SLOWEST_SWEEP_NS)

    def _sweep(self) -> None:
        self._timer = None
        outliving, self._outliving = self._outliving, []
        for views, give_back in outliving:
            for view in views:
                view.revoke()
            if any(view.lives for view in views):
                self._outliving.append((views, give_back))
            else:
                give_back()
        if self._outliving:
            self._look_again()
