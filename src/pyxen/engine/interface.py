"""What the hypervisor needs from a CPU engine, and nothing more.

The hypervisor is the consumer and owns this interface; an engine (Unicorn now, /dev/kvm later) implements it. The model is
KVM's: a vCPU *runs until it exits*, the exit is described in a block that both sides can see, the hypervisor changes the
state in that block and runs the vCPU again. Hypervisor code is never called from inside the engine, so nothing here assumes
callbacks, a CPL 1, or an engine that is software.

An engine knows nothing of domains or of Xen. It sees physical memory (one flat buffer shared by all vCPUs; physical address =
machine frame number * 4096) and one vCPU's registers.
"""

from __future__ import annotations

import ctypes
import enum
import threading
from collections.abc import Callable
from typing import Protocol


class ExitReason(enum.IntEnum):
    """Why ``VirtualCpu.run`` returned. RIP is where the guest goes on unless the hypervisor changes it."""

    KICK = 0  #: ``kick`` was called; RIP is between two instructions
    EXCEPTION = 1  #: fault of the current instruction: ``vector``, ``error_code``, ``state.cr2`` for #PF; RIP at the instruction
    #: (for #DB traps: at the next one)
    SOFTWARE_INTERRUPT = 2  #: int n, int3, into, int1: ``vector``; RIP past the instruction, ``instruction_length`` bytes back to it
    SYSCALL = 3  #: RIP past the instruction (2 bytes); RCX and R11 untouched
    SYSENTER = 4  #: RIP past the instruction (2 bytes)
    FAR_TRANSFER = 5  #: iret, far jmp/call/ret executed at 0 < CPL < 3: not executed; RIP at the instruction
    CPUID = 6  #: not executed; RIP at the instruction, ``instruction_length`` = 2
    RDMSR = 7  #: at CPL 0; not executed; RIP at the instruction
    WRMSR = 8  #: at CPL 0; not executed; RIP at the instruction
    IO = 9  #: in/out/ins/outs that the privilege check allows; not executed; RIP at the instruction
    HALT = 10  #: hlt at CPL 0; RIP past it
    TRIPLE_FAULT = 11
    BAD_MEMORY = (
        12  #: access to a physical address outside memory (``qualification``); ``error_code``: 2 if it writes, 16 if it fetches code
    )
    INTERRUPT_WINDOW = 14  #: ``state.interrupt_window`` is set and the guest would take an interrupt now; RIP is between two instructions
    HYPERCALL = 15  #: vmcall or vmmcall of a guest that is not deprivileged; not executed; RIP at the instruction, 3 bytes
    RDTSC = 16  #: rdtsc or rdtscp while ``state.rdtsc_exits`` is set, at any CPL at which CR4.TSD allows it; not executed; RIP at the
    #: instruction, ``instruction_length`` bytes; ``qualification``: 1 if it is rdtscp
    INTERNAL_ERROR = 13  #: the engine cannot go on; ``qualification`` is its error number. Never the guest's doing


class Dirty(enum.IntFlag):
    """Parts of ``CpuState`` that the hypervisor changed since the last exit. General registers, RIP and RFLAGS always load."""

    SEGMENTS = 1  #: segs[], cpl
    TABLES = 2  #: gdt, idt, ldt, tr
    CONTROL = 4  #: cr0, cr3, cr4, efer. Loading cr3 does NOT flush the TLB: say so with FLUSH_TLB
    DEBUG = 8  #: dr[]
    MSRS = 16  #: star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux
    FLUSH_TLB = 32  #: forget all translations before running (both privilege tags)
    ALL = 63


class Segment(ctypes.Structure):
    """A segment register. ``attributes`` is the descriptor's second doubleword (bits 8-23 meaningful: type, S, DPL, P, AVL, L, D/B, G)."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("limit", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32),
        ("selector", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    ]


class Table(ctypes.Structure):
    """GDTR or IDTR."""

    _fields_ = [("base", ctypes.c_uint64), ("limit", ctypes.c_uint32), ("_pad", ctypes.c_uint32)]


class CpuState(ctypes.Structure):
    """One vCPU's architectural state, plus the description of the last exit. Valid while the vCPU is not running.

    The CS/SS selectors that the guest sees are ``segs[].selector``; the privilege it runs with is ``cpl``. The two are
    independent (a deprivileged guest kernel runs with CPL 1 and reads a selector with RPL 3, as on Xen).
    The TLB is tagged by privilege (CPL 3, CPL < 3), so a kernel and a user page-table root may alternate in ``cr3``
    without a flush, as long as each tag always sees the same root between flushes.
    """

    _fields_ = [
        ("rax", ctypes.c_uint64),
        ("rcx", ctypes.c_uint64),
        ("rdx", ctypes.c_uint64),
        ("rbx", ctypes.c_uint64),
        ("rsp", ctypes.c_uint64),
        ("rbp", ctypes.c_uint64),
        ("rsi", ctypes.c_uint64),
        ("rdi", ctypes.c_uint64),
        ("r8", ctypes.c_uint64),
        ("r9", ctypes.c_uint64),
        ("r10", ctypes.c_uint64),
        ("r11", ctypes.c_uint64),
        ("r12", ctypes.c_uint64),
        ("r13", ctypes.c_uint64),
        ("r14", ctypes.c_uint64),
        ("r15", ctypes.c_uint64),
        ("rip", ctypes.c_uint64),
        ("rflags", ctypes.c_uint64),
        # control registers
        ("cr0", ctypes.c_uint64),
        ("cr2", ctypes.c_uint64),
        ("cr3", ctypes.c_uint64),
        ("cr4", ctypes.c_uint64),
        ("efer", ctypes.c_uint64),
        ("dr", ctypes.c_uint64 * 8),
        # MSR-backed state (SYSCALL targets are unused when SYSCALL exits)
        ("star", ctypes.c_uint64),
        ("lstar", ctypes.c_uint64),
        ("cstar", ctypes.c_uint64),
        ("sfmask", ctypes.c_uint64),
        ("kernel_gs_base", ctypes.c_uint64),
        ("tsc_aux", ctypes.c_uint64),
        ("segs", Segment * 6),  # ES CS SS DS FS GS
        ("ldt", Segment),
        ("tr", Segment),
        ("gdt", Table),
        ("idt", Table),
        ("cpl", ctypes.c_uint32),
        ("dirty", ctypes.c_uint32),  #: set by the hypervisor, cleared by run()
        # the last exit
        ("exit_reason", ctypes.c_uint32),
        ("vector", ctypes.c_uint32),
        ("error_code", ctypes.c_uint32),
        ("instruction_length", ctypes.c_uint32),
        ("qualification", ctypes.c_uint64),
        # more MSRs: with MSRS
        ("sysenter_cs", ctypes.c_uint64),
        ("sysenter_esp", ctypes.c_uint64),
        ("sysenter_eip", ctypes.c_uint64),
        # Events for a guest with an IDT of its own; ignored when deprivileged. Needs no ``dirty`` bit.
        ("injection", ctypes.c_uint32),  #: ``injected_event(...)``; run() clears it when the guest has taken it
        ("injection_error_code", ctypes.c_uint32),
        ("interrupt_window", ctypes.c_uint32),  #: nonzero: leave with INTERRUPT_WINDOW as soon as the guest takes interrupts
        # The guest's time-stamp counter. None of these needs a ``dirty`` bit.
        ("rdtsc_exits", ctypes.c_uint32),  #: nonzero: RDTSC and RDTSCP leave with RDTSC
        (
            "tsc_scale",
            ctypes.c_uint64,
        ),  #: else they read (counter of the host * this >> 48) + tsc_offset, as by VMX's TSC multiplier; 0 is 1.0
        ("tsc_offset", ctypes.c_uint64),  #: modulo 2**64. ``Engine.tsc`` knows neither
        #: Task priority, 0 to 15, of a guest that is not deprivileged. Needs no ``dirty`` bit. The hypervisor's to obey: events that it
        #: injects don't wait for it. A guest that lowers it leaves with KICK.
        ("cr8", ctypes.c_uint64),
    ]


ES, CS, SS, DS, FS, GS = range(6)


class EventType(enum.IntEnum):
    """What is injected (the types of VMX's interruption information, Intel SDM volume 3, section 24.8.3)."""

    EXTERNAL_INTERRUPT = 0  #: waits for IF and for the end of an interrupt shadow
    NMI = 2  #: waits for the end of the one before it
    EXCEPTION = 3  #: at once. For a page fault set ``cr2`` too


def injected_event(kind: EventType, vector: int, *, has_error_code: bool = False) -> int:
    """A value for ``CpuState.injection``."""
    return 1 << 31 | has_error_code << 11 | kind << 8 | vector


class VirtualCpu(Protocol):
    """One virtual CPU. Every method but ``kick``, ``notify`` and ``invalidate_frame`` belongs to the thread that runs the vCPU, or to one
    that knows it is not running."""

    state: CpuState

    def run(self) -> int:
        """Run the guest until the next exit and return its ``ExitReason`` value (a plain int). Releases the GIL."""

    def kick(self) -> None:
        """Make the current or the next ``run`` return KICK soon, without splitting an instruction. From any thread; sticky."""

    def notify(self) -> None:
        """As a kick, but what the native gate can deliver by itself does not end the run. From any thread."""

    def stop_alarm(self) -> None:
        """The one-shot timer in the gate's block, if native code has armed it, is the caller's from now on."""

    def flush_tlb_page(self, address: int) -> None:
        """Forget the translation of one linear address (both privilege tags)."""

    def invalidate_frame(self, mfn: int) -> None:
        """The hypervisor or another vCPU wrote to frame ``mfn``: drop code translated from it. From any thread: takes effect before the
        next ``run``, or, while running, after a kick that this call makes by itself."""

    def serve_exit(self) -> bool:
        """Let the native gate look at the exit that ``state`` says there was, as if a run had come to it. -> whether it has served it;
        if not, the state is as a run would leave it to the hypervisor. For tests of the gate; the vCPU is not running."""

    def attach_gate(self, address: int, size: int) -> bool:
        """Let native code serve exits on the block at ``address`` (native/pyxen_gate.h), which must outlive the vCPU. ``size``: of it and
        the blocks that it leads to. False: this engine has no such code, or it is for blocks of another size."""

    def set_physical_map(self, address: int, frames: int) -> None:
        """Give the guest physical addresses of its own: the table at ``address`` in this process has a 32-bit entry for each of its frames,
        the machine frame number in the low 31 bits, bit 31 for read-only, all ones for no memory. It stays there while the vCPU uses it.
        Entries may change at any time, with FLUSH_TLB after it. 0 frames: physical addresses are machine addresses again."""

    def read_fpu(self) -> bytes:
        """The 512-byte FXSAVE image."""

    def write_fpu(self, image: bytes) -> None:
        """Load a 512-byte FXSAVE image. ValueError if it has another size or reserved MXCSR bits."""

    def close(self) -> None:
        """Free the engine's resources. The vCPU must not be running."""


class Lock(Protocol):
    """A recursive lock that the engine's own code can hold, too. Its waiters do not hold the GIL."""

    def acquire(self) -> object:
        """Wait for it."""

    def release(self) -> object:
        """RuntimeError if the caller does not hold it."""

    def __enter__(self) -> object: ...
    def __exit__(self, *_: object) -> None: ...
    def condition(self) -> threading.Condition:
        """A condition variable on it."""


class Engine(Protocol):
    """A maker of vCPUs over one physical memory."""

    name: str

    @property
    def lock(self) -> Lock:
        """For all who work on this physical memory."""

    def create_cpu(self, *, exit_on_cpuid: bool, deprivileged: bool) -> VirtualCpu:
        """A vCPU in 64-bit mode with paging off, ready for its state to be set.

        ``exit_on_cpuid``: CPUID exits at any CPL. ``deprivileged``: the guest kernel runs at CPL 1 and user space at CPL 3: SYSCALL,
        SYSENTER, software interrupts, all exceptions, HLT, and far transfers exit; nothing is delivered through an IDT.
        """

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """EAX, EBX, ECX, EDX of the CPU that the engine can emulate: the upper bound of any CPUID policy."""

    def has_translated_code(self, mfn: int) -> bool:
        """Whether any vCPU holds translated code of frame ``mfn`` (may be true too often, never false wrongly)."""

    def tsc(self) -> int:
        """The counter that RDTSC of a guest without scale and offset reads now."""

    def set_clock(self, tsc: int, system_time_ns: int, multiplier: int) -> None:
        """System time is ``system_time_ns`` when the counter reads ``tsc``, and ``multiplier`` / 2**32 more each tick. No vCPU runs."""

    def validate(self, gate: int, mfn: int, level: int) -> bool:
        """Check the page table ``mfn`` and take all its references, for the domain of the gate block at ``gate``, which is attached. False:
        nothing was done. Lock held."""

    def devalidate(self, gate: int, mfn: int, level: int) -> bool:
        """The reverse."""

    def set_bits(self, machine: int, mask: int) -> int:
        """Atomic OR of the 64-bit word at physical address ``machine``, against guests that run at this moment. -> the old value."""

    def clear_bits(self, machine: int, mask: int) -> int:
        """Atomic AND NOT of the 64-bit word at physical address ``machine``. -> the old value."""

    def compare_exchange32(self, machine: int, expected: int, new: int) -> int:
        """Atomic replacement of the 32-bit word at physical address ``machine`` if it is ``expected``. -> the old value."""

    def compare_exchange(self, machine: int, expected: int, new: int) -> bool:
        """Atomic replacement of the 64-bit word at physical address ``machine`` if it is ``expected``. -> whether it was."""

    def self_test(self) -> None:
        """Prove on throw-away vCPUs that this build keeps the interface's promises. Raises ``EngineError`` naming the one that failed."""


class EngineError(Exception):
    """The engine library is missing, is another build, or failed its self-test; the text says what to do."""


#: make_engine(memory_address, memory_bytes) -> Engine
EngineFactory = Callable[[int, int], Engine]
