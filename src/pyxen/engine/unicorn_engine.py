"""The engine interface on libpyxen-engine, pyxen's own build of Unicorn (see native/)."""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.engine.interface import CpuState, EngineError
from pyxen.engine.library import Library, load_library
from pyxen.engine.lock import NativeLock
from pyxen.engine.self_test import run_self_test

if TYPE_CHECKING:
    from pyxen.engine.interface import Engine, Lock, VirtualCpu

PAGE = 4096
#: Reserved for each vCPU's translated code. Only what is used takes memory; when full, all of it is dropped and translated again.
CODE_BYTES = 32 << 20
_CODE_BYTES_FOR_QUERIES = 1 << 20

_EXIT_ON_CPUID = 1
_DEPRIVILEGED = 2

FXSAVE_BYTES = 512


class Machine:
    """One physical memory as the library knows it. Its vCPUs keep it alive."""

    __slots__ = ("handle", "library")

    def __init__(self, library: Library, memory_address: int, memory_bytes: int) -> None:
        self.library = library
        self.handle: int | None = library.quick.pyxen_machine_new(memory_address, memory_bytes)
        if not self.handle:
            raise EngineError("the CPU engine cannot be created: not enough memory")

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.library.quick.pyxen_machine_free(self.handle)


class UnicornCpu:
    """One vCPU: a Unicorn instance of its own.

    The page-table walker reads GDT, LDT and TSS with kernel rights from whatever root is loaded, so their linear addresses must mean
    the same under the kernel's and the user's root.
    """

    __slots__ = ("__weakref__", "_flush_page", "_handle", "_invalidate", "_kick", "_lock", "_machine", "_notify", "_quick", "run", "state")

    #: Runs until the next exit; its ``ExitReason`` value. The bound C function itself, since this is the hottest call there is.
    run: Callable[[], int]

    def __init__(self, machine: Machine, flags: int, code_bytes: int) -> None:
        quick = machine.library.quick
        self.state = CpuState()
        error = ctypes.c_int(0)
        handle = quick.pyxen_cpu_new(machine.handle, ctypes.addressof(self.state), flags, code_bytes, ctypes.byref(error))
        if not handle:
            raise EngineError(f"the CPU engine cannot create a vCPU (error {error.value}): is there enough memory?")
        self._machine = machine
        self._quick = quick
        self._handle: int | None = handle
        self._lock = threading.Lock()  # close against kick and invalidate_frame, which other threads may be in
        self._kick = quick.pyxen_cpu_kick
        self._notify = quick.pyxen_cpu_notify
        self._flush_page = quick.pyxen_cpu_flush_tlb_page
        self._invalidate = quick.pyxen_cpu_invalidate_frame
        run = machine.library.run.pyxen_cpu_run
        pointer = ctypes.c_void_p(handle)  # converted once

        def run_cpu() -> int:
            return run(pointer)  # type: ignore[no-any-return]

        self.run = run_cpu
        _open_cpus.add(self)

    def kick(self) -> None:
        with self._lock:
            if self._handle:
                self._kick(self._handle)

    def notify(self) -> None:
        with self._lock:
            if self._handle:
                self._notify(self._handle)

    def stop_alarm(self) -> None:
        self._quick.pyxen_cpu_stop_alarm(self._handle)

    def flush_tlb_page(self, address: int) -> None:
        self._flush_page(self._handle, address)

    def invalidate_frame(self, mfn: int) -> None:
        with self._lock:
            if self._handle:
                self._invalidate(self._handle, mfn)

    def serve_exit(self) -> bool:
        return self._quick.pyxen_cpu_serve(self._handle) != 0  # type: ignore[no-any-return]

    def attach_gate(self, address: int, size: int) -> bool:
        return not self._quick.pyxen_gate_attach(self._handle, address, size)

    def set_physical_map(self, address: int, frames: int) -> None:
        self._quick.pyxen_cpu_set_physical_map(self._handle, address, frames)

    def read_fpu(self) -> bytes:
        image = (ctypes.c_uint8 * FXSAVE_BYTES)()
        self._quick.pyxen_cpu_read_fpu(self._handle, image)
        return bytes(image)

    def write_fpu(self, image: bytes) -> None:
        if len(image) != FXSAVE_BYTES:
            raise ValueError(f"an FXSAVE image has {FXSAVE_BYTES} bytes, not {len(image)}")
        if self._quick.pyxen_cpu_write_fpu(self._handle, (ctypes.c_uint8 * FXSAVE_BYTES).from_buffer_copy(image)):
            raise ValueError("the FXSAVE image sets reserved bits of MXCSR")

    def halt(self) -> None:
        """For the end of the process: leave the guest, wherever its thread is, and never enter it again."""
        with self._lock:
            if self._handle:
                self._quick.pyxen_cpu_halt(self._handle)

    def close(self) -> None:
        with self._lock:
            handle, self._handle = self._handle, None
            if handle:
                self.run = _closed
                self._quick.pyxen_cpu_free(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


#: All vCPUs that are not closed. Threads in guest code outlive the interpreter's objects, physical memory among them.
_open_cpus: weakref.WeakSet[UnicornCpu] = weakref.WeakSet()


@atexit.register
def _halt_all() -> None:
    """Before the interpreter takes its objects apart."""
    for cpu in list(_open_cpus):
        cpu.halt()


def _closed() -> int:
    raise EngineError("the vCPU is closed")


class UnicornEngine:
    """Makes vCPUs over one flat physical memory, which starts at physical address 0 and must stay mapped until the last is closed."""

    name = "unicorn"

    def __init__(self, memory_address: int, memory_bytes: int) -> None:
        if memory_bytes <= 0 or memory_bytes % PAGE or memory_address % PAGE:
            raise ValueError("physical memory must be whole pages")
        library = load_library()
        self._machine = Machine(library, memory_address, memory_bytes)
        self._handle = self._machine.handle
        self.lock: Lock = NativeLock(self._machine)
        self._quick = library.quick
        self._words_end = memory_bytes - 7
        self._set_bits = self._quick.pyxen_machine_set_bits
        self._clear_bits = self._quick.pyxen_machine_clear_bits
        self._compare_exchange32 = self._quick.pyxen_machine_compare_exchange32
        self._compare_exchange = self._quick.pyxen_machine_compare_exchange
        self._has_code = self._quick.pyxen_machine_has_code
        self._tsc = self._quick.pyxen_tsc
        self._table = self._quick.pyxen_frames_table
        self._query_cpu: UnicornCpu | None = None

    def create_cpu(self, *, exit_on_cpuid: bool, deprivileged: bool) -> VirtualCpu:
        flags = (_EXIT_ON_CPUID if exit_on_cpuid else 0) | (_DEPRIVILEGED if deprivileged else 0)
        return UnicornCpu(self._machine, flags, CODE_BYTES)

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        if self._query_cpu is None:
            self._query_cpu = UnicornCpu(self._machine, 0, _CODE_BYTES_FOR_QUERIES)
        registers = (ctypes.c_uint32 * 4)()
        self._quick.pyxen_cpu_cpuid(self._query_cpu._handle, leaf, subleaf, registers)
        return registers[0], registers[1], registers[2], registers[3]

    def has_translated_code(self, mfn: int) -> bool:
        return self._has_code(self._handle, mfn) != 0  # type: ignore[no-any-return]

    def tsc(self) -> int:
        return self._tsc()  # type: ignore[no-any-return]

    def set_clock(self, tsc: int, system_time_ns: int, multiplier: int) -> None:
        self._quick.pyxen_machine_set_clock(self._handle, tsc, system_time_ns, multiplier)

    def validate(self, gate: int, mfn: int, level: int) -> bool:
        return self._table(gate, mfn, level, 1) != 0  # type: ignore[no-any-return]

    def devalidate(self, gate: int, mfn: int, level: int) -> bool:
        return self._table(gate, mfn, level, 0) != 0  # type: ignore[no-any-return]

    def set_bits(self, machine: int, mask: int) -> int:
        self._check_word(machine)
        return self._set_bits(self._handle, machine, mask)  # type: ignore[no-any-return]

    def clear_bits(self, machine: int, mask: int) -> int:
        self._check_word(machine)
        return self._clear_bits(self._handle, machine, mask)  # type: ignore[no-any-return]

    def compare_exchange32(self, machine: int, expected: int, new: int) -> int:
        self._check_word(machine & ~4)
        return self._compare_exchange32(self._handle, machine, expected, new)  # type: ignore[no-any-return]

    def compare_exchange(self, machine: int, expected: int, new: int) -> bool:
        self._check_word(machine)
        return self._compare_exchange(self._handle, machine, expected, new) != 0  # type: ignore[no-any-return]

    def _check_word(self, machine: int) -> None:
        if machine & 7 or not 0 <= machine < self._words_end:
            raise ValueError(f"{machine:#x} is not the address of a 64-bit word in memory")

    def self_test(self) -> None:
        run_self_test(make_engine)


def make_engine(memory_address: int, memory_bytes: int) -> Engine:
    """An engine over the ``memory_bytes`` bytes that are mapped at ``memory_address`` in this process (read and write).

    Raises ``EngineError`` if the library is missing or of another build.
    """
    return UnicornEngine(memory_address, memory_bytes)
