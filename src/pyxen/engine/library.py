"""Finds and loads libpyxen-engine.so, and declares its functions (native/pyxen_cpu.h)."""

from __future__ import annotations

import ctypes
import os
from ctypes import POINTER, c_int, c_ssize_t, c_uint8, c_uint32, c_uint64, c_void_p, py_object
from pathlib import Path

from pyxen.engine.interface import CpuState, EngineError, Segment, Table

ENGINE_VERSION = 6
LIBRARY_NAME = "libpyxen-engine.so"

_FUNCTIONS: dict[str, tuple[object, list[object]]] = {
    "pyxen_layout": (c_int, [POINTER(c_uint32), c_int]),
    "pyxen_machine_new": (c_void_p, [c_void_p, c_uint64]),
    "pyxen_machine_free": (None, [c_void_p]),
    "pyxen_machine_lock": (c_void_p, [c_void_p]),
    "pyxen_lock_owned": (c_int, [c_void_p]),
    "pyxen_lock_enter": (py_object, [py_object, c_void_p]),
    "pyxen_lock_exit": (py_object, [py_object, c_void_p, c_ssize_t]),
    "pyxen_lock_restore": (c_int, [c_void_p, c_uint32]),
    "pyxen_lock_release_all": (c_uint32, [c_void_p]),
    "pyxen_machine_set_clock": (None, [c_void_p, c_uint64, c_uint64, c_uint64]),
    "pyxen_machine_has_code": (c_int, [c_void_p, c_uint64]),
    "pyxen_machine_set_bits": (c_uint64, [c_void_p, c_uint64, c_uint64]),
    "pyxen_machine_clear_bits": (c_uint64, [c_void_p, c_uint64, c_uint64]),
    "pyxen_machine_compare_exchange32": (c_uint32, [c_void_p, c_uint64, c_uint32, c_uint32]),
    "pyxen_machine_compare_exchange": (c_int, [c_void_p, c_uint64, c_uint64, c_uint64]),
    "pyxen_cpu_new": (c_void_p, [c_void_p, c_void_p, c_uint32, c_uint32, POINTER(c_int)]),
    "pyxen_cpu_free": (None, [c_void_p]),
    "pyxen_cpu_halt": (None, [c_void_p]),
    "pyxen_cpu_run": (c_int, [c_void_p]),
    "pyxen_cpu_kick": (None, [c_void_p]),
    "pyxen_cpu_notify": (None, [c_void_p]),
    "pyxen_cpu_stop_alarm": (None, [c_void_p]),
    "pyxen_cpu_flush_tlb_page": (None, [c_void_p, c_uint64]),
    "pyxen_cpu_invalidate_frame": (None, [c_void_p, c_uint64]),
    "pyxen_cpu_set_physical_map": (None, [c_void_p, c_void_p, c_uint64]),
    "pyxen_cpu_read_fpu": (None, [c_void_p, POINTER(c_uint8)]),
    "pyxen_cpu_write_fpu": (c_int, [c_void_p, POINTER(c_uint8)]),
    "pyxen_cpu_cpuid": (None, [c_void_p, c_uint32, c_uint32, POINTER(c_uint32)]),
    "pyxen_cpu_serve": (c_int, [c_void_p]),
    "pyxen_frames_table": (c_int, [c_void_p, c_uint64, c_uint32, c_int]),
    "pyxen_gate_attach": (c_int, [c_void_p, c_void_p, c_uint64]),
    "pyxen_tsc": (c_uint64, []),
    "pyxen_set_interpreter": (None, [c_void_p]),
}


class _Interpreter(ctypes.Structure):
    """``struct pyxen_interpreter``."""

    _FUNCTIONS = {
        "save_thread": "PyEval_SaveThread",
        "restore_thread": "PyEval_RestoreThread",
        "check_signals": "PyErr_CheckSignals",
        "set_error": "PyErr_SetString",
        "truth": "PyBool_FromLong",
        "pointer": "PyCapsule_GetPointer",
    }
    _fields_ = [(name, c_void_p) for name in (*_FUNCTIONS, "runtime_error")]

    @classmethod
    def this(cls) -> _Interpreter:
        addresses = (ctypes.cast(getattr(ctypes.pythonapi, name), c_void_p) for name in cls._FUNCTIONS.values())
        return cls(*addresses, c_void_p.in_dll(ctypes.pythonapi, "PyExc_RuntimeError"))


def library_path() -> Path:
    """The library of this installation; ``PYXEN_ENGINE_LIBRARY`` names another one."""
    chosen = os.environ.get("PYXEN_ENGINE_LIBRARY")
    return Path(chosen) if chosen else Path(__file__).parent / "lib" / LIBRARY_NAME


def expected_layout() -> list[int]:
    """What ``pyxen_layout`` must answer: the version, the sizes, and the offset of every field of ``CpuState`` in order."""
    offsets = [getattr(CpuState, name).offset for name, *_ in CpuState._fields_]
    return [ENGINE_VERSION, ctypes.sizeof(CpuState), ctypes.sizeof(Segment), ctypes.sizeof(Table), *offsets]


def _declare(library: ctypes.CDLL) -> None:
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype = result
        function.argtypes = arguments


class Library:
    """The loaded library. ``run`` releases the GIL for as long as the guest runs; ``quick`` holds it, for calls that take less time
    than giving it up and getting it back."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise EngineError(f"the CPU engine {path} is not built: run make, or reinstall pyxen with pip")
        try:
            self.run = ctypes.CDLL(str(path))
            self.quick = ctypes.PyDLL(str(path))
            _declare(self.run)
            _declare(self.quick)
        except (OSError, AttributeError) as error:
            raise EngineError(f"the CPU engine {path} cannot be used ({error}): rebuild it with make, or reinstall pyxen") from error
        expected = expected_layout()
        layout = (c_uint32 * (len(expected) + 1))()
        count = self.quick.pyxen_layout(layout, len(layout))
        if count != len(expected) or list(layout)[:count] != expected:
            raise EngineError(f"the CPU engine {path} is of another pyxen version: rebuild it with make, or reinstall pyxen")
        self.quick.pyxen_set_interpreter(ctypes.byref(_Interpreter.this()))


_loaded: Library | None = None


def load_library() -> Library:
    """The library, loaded once per process. Raises ``EngineError`` saying what to do."""
    global _loaded
    if _loaded is None:
        _loaded = Library(library_path())
    return _loaded
