"""A recursive lock that Python and the library's C code hold alike (native/pyxen_lock.c)."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.engine.unicorn_engine import Machine


class NativeLock:
    """As ``threading.RLock``, but nobody waits for it longer than others hold it for long: who has waited for half a millisecond gets it
    before those that come later. While a thread waits it does not hold the GIL, so C code may take the lock without one."""

    __slots__ = ("_lock", "_machine", "_owned", "_release", "_release_all", "_try", "_wait")

    def __init__(self, machine: Machine) -> None:
        quick = machine.library.quick
        self._machine = machine  # the lock is in its memory
        self._lock = ctypes.c_void_p(quick.pyxen_machine_lock(machine.handle))
        self._try = quick.pyxen_lock_try
        self._wait = machine.library.run.pyxen_lock_wait
        self._release = quick.pyxen_lock_release
        self._owned = quick.pyxen_lock_owned
        self._release_all = quick.pyxen_lock_release_all

    def acquire(self) -> bool:
        """Wait for it, once more if the caller has it already."""
        if not self._try(self._lock):
            self._wait(self._lock, 1)
        return True

    def release(self) -> None:
        """RuntimeError if the caller does not hold it."""
        if self._release(self._lock):
            raise RuntimeError("cannot release a lock that is not held")

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

    def condition(self) -> threading.Condition:
        """A condition variable on it."""
        return threading.Condition(self)  # type: ignore[arg-type]  # it has what that asks for

    # What threading.Condition needs of a recursive lock.
    def _is_owned(self) -> bool:
        return bool(self._owned(self._lock))

    def _release_save(self) -> int:
        depth: int = self._release_all(self._lock)
        return depth

    def _acquire_restore(self, depth: int) -> None:
        self._wait(self._lock, depth)
