"""A small physical memory with page tables of its own, for trying code on throw-away vCPUs: the self-test's and the tests' workbench."""

from __future__ import annotations

import ctypes
import mmap
from types import TracebackType

from pyxen.engine.interface import CpuState, Dirty, Engine, EngineFactory, VirtualCpu

PAGE = 4096
CODE = 0x10000  #: where ``load`` puts code; identity-mapped, executable and writable
DATA = 0x20000  #: sixteen identity-mapped data pages
STACK_TOP = 0x3F000

PRESENT, WRITE, USER, ACCESSED, DIRTY, LARGE = 1, 2, 4, 0x20, 0x40, 0x80
NO_EXECUTE = 1 << 63

_FIRST_TABLE = 0x100000
_CR0_PAGING = 1 << 31


class Sandbox:
    """Memory, an engine over it, and the vCPUs made with ``cpu``; all of it goes away with ``close``."""

    def __init__(self, make_engine: EngineFactory, memory_bytes: int = 4 << 20) -> None:
        self.memory = mmap.mmap(-1, memory_bytes)
        self._anchor = ctypes.c_char.from_buffer(self.memory)
        self.engine: Engine = make_engine(ctypes.addressof(self._anchor), memory_bytes)
        self._cpus: list[VirtualCpu] = []
        self._next_table = _FIRST_TABLE
        self.root = self.new_root()

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for cpu in self._cpus:
            cpu.close()
        self._cpus.clear()

    # ------------------------------------------------------------------ memory

    def read(self, address: int, size: int = 8) -> int:
        return int.from_bytes(self.memory[address : address + size], "little")

    def write(self, address: int, value: int, size: int = 8) -> None:
        self.memory[address : address + size] = value.to_bytes(size, "little")

    def load(self, code: bytes, address: int = CODE) -> None:
        self.memory[address : address + len(code)] = code

    def _new_table(self) -> int:
        table = self._next_table
        self._next_table += PAGE
        return table

    def new_root(self) -> int:
        """A top-level table in which the first 256 KiB are identity-mapped for everybody, accessed and dirty bits clear."""
        root = self._new_table()
        for address in range(0, 0x40000, PAGE):
            self.map(address, address, PRESENT | WRITE | USER, root)
        return root

    def map(self, linear: int, physical: int, flags: int, root: int | None = None) -> int:
        """Maps one page and returns the physical address of its entry. Tables are made as needed, with every right."""
        table = self.root if root is None else root
        for shift in (39, 30, 21):
            entry = table + (linear >> shift & 511) * 8
            if not self.read(entry) & PRESENT:
                self.write(entry, self._new_table() | PRESENT | WRITE | USER)
            table = self.read(entry) & 0x000FFFFFFFFFF000
        entry = table + (linear >> 12 & 511) * 8
        self.write(entry, physical | flags)
        return entry

    # ------------------------------------------------------------------ vCPUs

    def cpu(self, code: bytes | None = None, *, cpl: int = 1, deprivileged: bool = True, exit_on_cpuid: bool = True) -> VirtualCpu:
        """A vCPU with paging on, about to run ``code``."""
        cpu = self.engine.create_cpu(exit_on_cpuid=exit_on_cpuid, deprivileged=deprivileged)
        self._cpus.append(cpu)
        state = cpu.state
        if code is not None:
            self.load(code)
        state.rip = CODE
        state.rsp = STACK_TOP
        state.cr3 = self.root
        state.cr0 |= _CR0_PAGING
        state.cpl = cpl
        state.dirty = Dirty.ALL
        return cpu

    def run_code(self, cpu: VirtualCpu, code: bytes) -> int:
        """Runs other code on the vCPU, from its start, as the hypervisor would after writing it."""
        self.load(code)
        cpu.invalidate_frame(CODE // PAGE)
        cpu.state.rip = CODE
        return cpu.run()


def general_registers(state: CpuState) -> list[int]:
    return [getattr(state, name) for name, *_ in CpuState._fields_[:16]]
