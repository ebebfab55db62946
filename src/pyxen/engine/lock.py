"""A recursive lock that Python and the library's C code hold alike (native/pyxen_lock.c)."""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.engine.library import Library

if TYPE_CHECKING:
    from pyxen.engine.unicorn_engine import Machine

#: Python.h: how a built-in method gets its arguments.
_METH_NOARGS = 0x0004
_METH_FASTCALL = 0x0080


class _MethodDefinition(ctypes.Structure):
    """Python.h's ``PyMethodDef``."""

    _fields_ = [("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("documentation", ctypes.c_char_p)]


_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_New", ctypes.pythonapi))
_new_method = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.POINTER(_MethodDefinition), ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)


@functools.cache
def _definitions(library: Library) -> tuple[_MethodDefinition, _MethodDefinition]:
    """Of "enter" and "exit". Kept for ever: methods refer to them."""
    enter, leave = (ctypes.cast(f, ctypes.c_void_p) for f in (library.quick.pyxen_lock_enter, library.quick.pyxen_lock_exit))
    return _MethodDefinition(b"enter", enter, _METH_NOARGS, None), _MethodDefinition(b"exit", leave, _METH_FASTCALL, None)


class NativeLock:
    """As ``threading.RLock``, but nobody waits for it longer than others hold it for long: who has waited for half a millisecond gets it
    before those that come later. While a thread waits it does not hold the GIL, so C code may take the lock without one.

    Its methods are C functions, as an RLock's are: no signal's handler can raise between the lock and the ``with`` that gives it back. A
    ``with`` looks them up in the class, so every lock has a class of its own.
    """

    def __new__(cls, machine: Machine) -> NativeLock:
        quick = machine.library.quick
        address = quick.pyxen_machine_lock(machine.handle)
        lock, capsule = ctypes.c_void_p(address), _new_capsule(address, None, None)
        enter, leave = (_new_method(definition, capsule, None) for definition in _definitions(machine.library))
        methods = {
            "acquire": enter,
            "release": leave,
            "__enter__": enter,
            "__exit__": leave,
            # What threading.Condition needs of a recursive lock.
            "_is_owned": functools.partial(quick.pyxen_lock_owned, lock),
            "_release_save": functools.partial(quick.pyxen_lock_release_all, lock),
            "_acquire_restore": functools.partial(quick.pyxen_lock_restore, lock),
        }
        of_its_own = type(cls.__name__, (cls,), {name: staticmethod(method) for name, method in methods.items()})
        return object.__new__(of_its_own)

    def __init__(self, machine: Machine) -> None:
        self._machine = machine  # the lock is in its memory

    if TYPE_CHECKING:
        acquire: Callable[[], object]
        release: Callable[[], object]

        def __enter__(self) -> object: ...
        def __exit__(self, *_: object) -> None: ...

    def condition(self) -> threading.Condition:
        """A condition variable on it."""
        return threading.Condition(self)  # type: ignore[arg-type]  # it has what that asks for
