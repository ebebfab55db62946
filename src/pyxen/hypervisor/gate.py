"""The block that a vCPU shares with the native gate (native/pyxen_gate.h), and what of it Python code sees.

The gate serves the hottest exits inside the engine: of PV guests system calls, page faults, event upcalls, HYPERVISOR_iret, a few
hypercalls that only touch registers, and those that manage memory; of HVM guests CPUID, registers, the local APIC, interrupts; of both the
timer and IPIs. ``traps``, ``exits``, ``mmu_ops``, ``hvm`` and what these call are the reference; with ``PYXEN_GATE=python`` in the
environment they do all the work, on the same block.
"""

from __future__ import annotations

import ctypes
import enum
import os
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np
import numpy.typing as npt

from pyxen.abi.event_channel import EVTCHN_FIFO_MAX_QUEUES as QUEUES
from pyxen.abi.event_channel import EVTCHN_FIFO_NR_CHANNELS as PORTS
from pyxen.hypervisor.frame_table import FrameBlock

SEGMENTS = 4
HYPERCALLS = 64
WRITES = 64
CPUID = 64
EVENT_PAGES = PORTS // 1024
CODE_OCTETS = 15
VECTORS = 256
APIC_REGISTERS = 64  #: by their offset / 16


class EventAbi(enum.IntEnum):
    """How a domain gets its events."""

    HANDLERS = 0  #: the embedded Domain 0, not for native code
    TWO_LEVEL = 1
    FIFO = 2


class GateTrap(ctypes.Structure):
    """struct pyxen_gate_trap."""

    _fields_ = [("address", ctypes.c_uint64), ("dpl", ctypes.c_uint32), ("masks_events", ctypes.c_uint32)]


class GateSegment(ctypes.Structure):
    """struct pyxen_gate_segment."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("selector", ctypes.c_uint32),
        ("limit", ctypes.c_uint32),
        ("attributes", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    ]


class GateWrite(ctypes.Structure):
    """struct pyxen_gate_write."""

    _fields_ = [
        ("code", ctypes.c_uint8 * CODE_OCTETS),
        ("length", ctypes.c_uint8),
        ("operation", ctypes.c_uint8),
        ("size", ctypes.c_uint8),
        ("source", ctypes.c_uint8),
        ("source_shift", ctypes.c_uint8),
        ("_pad", ctypes.c_uint32),
        ("immediate", ctypes.c_uint64),
    ]


class GateCpuid(ctypes.Structure):
    """struct pyxen_gate_cpuid."""

    _fields_ = [
        ("leaf", ctypes.c_uint32),
        ("subleaf", ctypes.c_uint32),
        ("known", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
        ("registers", ctypes.c_uint32 * 4),
    ]


class GateApic(ctypes.Structure):
    """struct pyxen_apic. ``requests`` and ``services`` are numbers of 256 bits, a bit a vector."""

    _fields_ = [
        ("base", ctypes.c_uint64),
        ("registers", ctypes.c_uint32 * APIC_REGISTERS),
        ("requests", ctypes.c_uint8 * (VECTORS // 8)),
        ("services", ctypes.c_uint8 * (VECTORS // 8)),
    ]


class GateDomain(ctypes.Structure):
    """struct pyxen_gate_domain: what the vCPUs of a domain have in common."""

    _fields_ = [
        ("frames", ctypes.c_void_p),
        ("domid", ctypes.c_uint64),
        ("vcpus", ctypes.c_uint64),
        ("per_domain_entry", ctypes.c_uint64),
        ("exclusive", ctypes.c_uint64),
        ("vm_assist", ctypes.c_uint64),
        ("shared_info", ctypes.c_uint64),
        ("event_abi", ctypes.c_uint64),
        ("event_ipis", ctypes.c_void_p),
        ("event_pages_used", ctypes.c_uint64),
        ("event_pages", ctypes.c_void_p),
        ("event_priorities", ctypes.c_void_p),
        ("event_queues", ctypes.c_void_p),
        ("narrow", ctypes.c_uint64),
        ("callback_vector", ctypes.c_uint64),
        ("writes", GateWrite * WRITES),
    ]


class GateBlock(ctypes.Structure):
    """struct pyxen_gate."""

    _fields_ = [
        ("enabled", ctypes.c_uint64),
        ("kernel_mode", ctypes.c_uint64),
        ("kernel_root", ctypes.c_uint64),
        ("user_root", ctypes.c_uint64),
        ("kernel_sp", ctypes.c_uint64),
        ("kernel_ss", ctypes.c_uint64),
        ("gs_base_other", ctypes.c_uint64),
        ("info", ctypes.c_uint64),
        ("event_callback", ctypes.c_uint64),
        ("syscall_callback", ctypes.c_uint64),
        ("syscall_masks_events", ctypes.c_uint64),
        ("cr0", ctypes.c_uint64),
        ("nmi_pending", ctypes.c_uint64),
        ("nmi_active", ctypes.c_uint64),
        ("architectural_iopl", ctypes.c_uint64),
        ("iopl", ctypes.c_uint64),
        ("ldt_start", ctypes.c_uint64),
        ("ldt_end", ctypes.c_uint64),
        ("system_calls", ctypes.c_uint64),
        ("page_faults", ctypes.c_uint64),
        ("upcalls", ctypes.c_uint64),
        ("table_writes", ctypes.c_uint64),
        ("cpuids", ctypes.c_uint64),
        ("cpuid_faulting", ctypes.c_uint64),
        ("events_sent", ctypes.c_uint64),
        ("timer_events", ctypes.c_uint64),
        ("interrupt_flags", ctypes.c_uint64),
        ("registers", ctypes.c_uint64),
        ("domain", ctypes.c_void_p),
        ("next", ctypes.c_void_p),
        ("cpu", ctypes.c_void_p),
        ("vcpu_id", ctypes.c_uint64),
        ("in_guest", ctypes.c_uint64),
        ("flush_clock", ctypes.c_uint64),
        ("flushes", ctypes.c_uint64),
        ("blocked", ctypes.c_uint64),
        ("online", ctypes.c_uint64),
        ("polled", ctypes.c_int64),
        ("timer_port", ctypes.c_uint64),
        ("timer_deadline", ctypes.c_uint64),
        ("timer_native", ctypes.c_uint64),
        ("event_control", ctypes.c_uint64),
        ("event_tails", ctypes.c_uint32 * QUEUES),
        ("is_hvm", ctypes.c_uint64),
        ("upcall_vector", ctypes.c_uint64),
        ("apic", GateApic),
        ("hypercalls", ctypes.c_uint64 * HYPERCALLS),
        ("code", GateSegment * SEGMENTS),
        ("stack", GateSegment * SEGMENTS),
        ("traps", GateTrap * VECTORS),
        ("cpuid", GateCpuid * CPUID),
    ]


def is_wanted() -> bool:
    """Whether the native paths are to be used (``PYXEN_GATE`` is not ``python``)."""
    return os.environ.get("PYXEN_GATE") != "python"


@dataclass(frozen=True, slots=True)
class TrapEntry:
    """One line of the guest's trap table (struct trap_info)."""

    address: int
    dpl: int
    masks_events: bool


class TrapTable:
    """The virtual IDT: ``TrapEntry`` or None for each vector, kept in the gate's block."""

    def __init__(self, block: GateBlock) -> None:
        self._block = block  # owns the array's memory
        self._traps = block.traps

    @overload
    def __getitem__(self, vector: int) -> TrapEntry | None: ...
    @overload
    def __getitem__(self, vector: slice) -> list[TrapEntry | None]: ...
    def __getitem__(self, vector: int | slice) -> TrapEntry | None | list[TrapEntry | None]:
        if isinstance(vector, slice):
            return [self[number] for number in range(*vector.indices(VECTORS))]
        trap = self._traps[vector]
        return TrapEntry(trap.address, trap.dpl, bool(trap.masks_events)) if trap.address else None

    def __setitem__(self, vector: int, entry: TrapEntry | None) -> None:
        trap = self._traps[vector]
        if entry is None:
            trap.address = trap.dpl = trap.masks_events = 0
        else:
            trap.address, trap.dpl, trap.masks_events = entry.address, entry.dpl, entry.masks_events

    def clear(self) -> None:
        """No handlers at all."""
        ctypes.memset(ctypes.addressof(self._traps), 0, ctypes.sizeof(self._traps))


class KnownSegments:
    """User segments that have been checked for an iret; the gate uses them without looking at descriptors again. Forgotten
    whenever a descriptor table changes."""

    def __init__(self, block: GateBlock) -> None:
        self._block = block
        self._next = {"code": 0, "stack": 0}

    def remember(self, kind: str, selector: int, loaded: tuple[int, int, int]) -> None:
        """``kind`` is code or stack; ``loaded`` is (base, limit, attributes)."""
        slots = getattr(self._block, kind)
        if any(slot.selector == selector for slot in slots):
            return
        slot = slots[self._next[kind]]
        self._next[kind] = (self._next[kind] + 1) % SEGMENTS
        slot.selector = selector
        slot.base, slot.limit, slot.attributes = loaded

    def forget(self) -> None:
        """Descriptors may have changed."""
        for kind in ("code", "stack"):
            for slot in getattr(self._block, kind):
                slot.selector = 0


class KnownCpuid:
    """Answers of a vCPU's CPUID policy that never change, for the gate to give by itself."""

    def __init__(self, block: GateBlock) -> None:
        self._block = block  # owns the array's memory
        self._answers = block.cpuid

    def remember(self, leaf: int, subleaf: int, registers: tuple[int, int, int, int]) -> None:
        """On the vCPU's own thread, which the gate runs on, too."""
        answer = self._answers[(leaf + (leaf >> 26) + 8 * subleaf & 0xFFFFFFFF) % CPUID]
        answer.leaf, answer.subleaf, answer.known = leaf, subleaf, 1
        answer.registers[:] = registers

    def forget(self) -> None:
        """The policy's answers may have changed. On the vCPU's own thread, or while it is not in the guest."""
        for answer in self._answers:
            answer.known = 0


class KnownWrites:
    """Instructions that have written page tables, decoded, for the gate to carry out the same octets at the same place by itself."""

    def __init__(self, block: GateDomain) -> None:
        self._block = block  # owns the array's memory
        self._writes = block.writes

    def remember(self, rip: int, code: bytes, operation: int, size: int, source: int, source_shift: int, immediate: int) -> None:
        """``code``: the instruction's octets. ``source``: number of the register; 16 for the immediate."""
        known = self._writes[rip % WRITES]
        known.length = 0
        known.code[: len(code)] = code
        known.operation, known.size, known.source, known.source_shift, known.immediate = operation, size, source, source_shift, immediate
        known.length = len(code)


class GatePorts:
    """What native code has to know of a domain's event channels; all under the hypervisor's lock. Arrays have an element for each port, and
    most of their memory is never touched."""

    def __init__(self, block: GateDomain) -> None:
        self._block = block
        #: 1 + the vCPU that an IPI's port notifies; 0 for other ports.
        self.ipis: npt.NDArray[np.uint16] = np.zeros(PORTS, np.uint16)
        block.event_ipis = self.ipis.ctypes.data
        self._forget_fifo()

    def use(self, abi: EventAbi) -> None:
        """That of the domain's events from now on."""
        if self._block.event_abi == EventAbi.FIFO:
            self._forget_fifo()
        self._block.event_abi = abi

    def _forget_fifo(self) -> None:
        self._block.event_pages_used = 0
        self.pages: npt.NDArray[np.uint32] = np.zeros(EVENT_PAGES, np.uint32)
        #: 1 + the priority; 0 for the default.
        self.priorities: npt.NDArray[np.uint8] = np.zeros(PORTS, np.uint8)
        #: The queue that each port was appended to last, as ``queue_number`` has it; 0 for none. Kept when the port is closed: it may
        #: still be that queue's tail.
        self.queues: npt.NDArray[np.uint16] = np.zeros(PORTS, np.uint16)
        self._block.event_pages = self.pages.ctypes.data
        self._block.event_priorities = self.priorities.ctypes.data
        self._block.event_queues = self.queues.ctypes.data

    def add_page(self, number: int, mfn: int) -> None:
        """Words of the FIFO ABI for more ports."""
        self.pages[number] = mfn
        self._block.event_pages_used = number + 1


def queue_number(vcpu_id: int, priority: int) -> int:
    """In ``GatePorts.queues``."""
    return 1 + QUEUES * vcpu_id + priority


#: Of all blocks that the engine has to know the layout of.
BLOCKS_SIZE = ctypes.sizeof(GateBlock) + ctypes.sizeof(GateDomain) + ctypes.sizeof(FrameBlock)


def join(domain: GateDomain, gates: list[GateBlock]) -> None:
    """Make these the blocks of a domain's vCPUs. All must outlive each of them."""
    domain.vcpus = len(gates)
    for gate, following in zip(gates, [*gates[1:], *gates[:1]], strict=True):
        gate.domain, gate.next = ctypes.addressof(domain), ctypes.addressof(following)


class Gated(Protocol):
    """Whatever has a gate block."""

    @property
    def gate(self) -> ctypes.Structure: ...


class GateMember:
    """A member of ``Vcpu``, ``Domain`` or a part of these that lives in the gate block under the same name, as an integer."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, vcpu: Gated, owner: type) -> int:
        value: int = getattr(vcpu.gate, self._name)
        return value

    def __set__(self, vcpu: Gated, value: int) -> None:
        setattr(vcpu.gate, self._name, value)


class GateBits:
    """A member, as ``GateMember``, that is a number of many bits."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, gated: Gated, owner: type) -> int:
        return int.from_bytes(bytes(getattr(gated.gate, self._name)), "little")

    def __set__(self, gated: Gated, value: int) -> None:
        octets = getattr(gated.gate, self._name)
        octets[:] = value.to_bytes(len(octets), "little")
