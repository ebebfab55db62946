"""As ``test_gate_differential``, for HVM vCPUs: the same random instructions of a kernel in 64-bit code on two machines in the same state,
one of which answers by native code as far as that goes. Registers, the local APICs, events, timers and what is to be injected have to be
the same after each.

PYXEN_LONG=1 makes PYXEN_CALLS of them (a million), from a seed that PYXEN_SEED names.
"""

from __future__ import annotations

import random
import struct
from collections import Counter

import pytest

from pyxen.abi import event_channel as events
from pyxen.abi import vcpu as vcpus
from pyxen.abi import xen
from pyxen.engine.interface import CS, FS, GS, Dirty, ExitReason
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.hvm import exits, interrupts, local_apic
from pyxen.hypervisor.hvm.processor_reset import GENERAL
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.timers import Timer
from tests.security.machine_pair import SEED, MachinePair, calls_to_make, forget_events, forget_ports, open_ports
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import MASK64, new_machine

CALLS = calls_to_make(4000)
CALLS_PER_MACHINE = 500

PAGES, VCPUS = 64, 3
#: Guest frames of the page tables, of what hypercalls name, of the FIFO ABI, and one outside of memory.
TABLES, ARGUMENTS, CONTROL, WORDS, HOLE = range(40, 44), 8, 12, 13, 100
#: Linear addresses: of single pages, frame by frame; of all memory, in pages of 2 MiB and 1 GiB.
SINGLE, LARGE, HUGE = 0x0, 0x20_0000, 0x4000_0000
PRESENT, RW, PSE = 1, 2, 0x80
CODE64, CODE32 = 0xA09B00, 0xC09B00
LENGTHS = {ExitReason.CPUID: 2, ExitReason.RDMSR: 2, ExitReason.WRMSR: 2, ExitReason.HYPERCALL: 3, ExitReason.INTERRUPT_WINDOW: 0}
FLAGS = (2, 2, *(0x202,) * 7, 0x302, 0x10202)
VECTORS = (0, 7, 15, 16, 31, 32, 0x50, 0x51, 0x80, 0xEF, 0xF3, 0xFF)
LEAVES = (0, 1, 2, 4, 7, 0xD, 0x16, 0x80000000, 0x80000001, 0x80000008, *range(0x40000000, 0x40000003), 0x40000004, 0x40000005, 0xFFFFFFFF)
VALUES = (0, 1, 0x7000, (1 << 47) - 1, 1 << 47, MASK64, MASK64 - (1 << 47) + 1, 1 << 63)
#: Deadlines of the one-shot timer, in system time.
DEADLINES = (1 << 61, 1 << 50, 1, 0, (1 << 63) - 1, 1 << 63, MASK64)
BASES = (0xC0000100, 0xC0000101, 0xC0000102)
APIC = 0x800
OTHER_REGISTERS = (0xC0000080, 0xC0000082, 0xC0000103, 0x1B, 0x174, 0x277, 0x7FF, 0xC00, 0x12345678)


class Side:
    """One machine and its domain, whose first vCPU is a 64-bit kernel's."""

    def __init__(self, *, fifo: bool, x2apic: bool, callback: int, upcalls: tuple[int, ...]) -> None:
        self.machine = new_machine()
        self.guest = SmallHvmDomain(self.machine, pages=PAGES, vcpus=VCPUS)
        self.vcpus = [vcpu for vcpu in self.guest.domain.vcpus if isinstance(vcpu, HvmVcpu)]
        self.vcpu = self.vcpus[0]
        self.native = self.vcpu.gate.enabled != 0
        self.served: Counter[str] = Counter()
        self.guest.container.callback_vector = callback
        for vcpu, vector in zip(self.vcpus, upcalls, strict=True):
            vcpu.upcall_vector = vector
            vcpu.local_apic.write(local_apic.SVR, 0x1FF)
            if x2apic:
                vcpu.local_apic.set_base(vcpu.local_apic.base | local_apic.X2APIC)
        self._enter_long_mode()
        self.ports = open_ports(self.guest.domain, (CONTROL, WORDS) if fifo else None)

    def _enter_long_mode(self) -> None:
        top, middle, single, pages = (frame << 12 for frame in TABLES)
        words = {
            top: middle | PRESENT | RW,
            middle: single | PRESENT | RW,
            middle + 8: PRESENT | RW | PSE,
            single: pages | PRESENT | RW,
            single + 8: PRESENT | PSE,
        }
        for number in range(PAGES):
            words[pages + 8 * number] = number << 12 | PRESENT | (RW if number % 2 else 0)
        words[pages + 8 * (PAGES - 1)] = 0
        words[pages + 8 * PAGES] = HOLE << 12 | PRESENT
        for where, word in words.items():
            self.guest.write(where, struct.pack("<Q", word))
        state = self.vcpu.state
        state.cr0, state.cr3, state.cr4, state.efer = 0x80010031, top, 0x20, 0x500
        state.dirty |= Dirty.ALL

    def exit(self, name: str, reason: ExitReason, registers: dict[str, int], *, cpl: int, code: int) -> None:
        """The kernel has come to such an instruction."""
        vcpu, state = self.vcpu, self.vcpu.state
        with self.machine.lock:
            state.rip, state.exit_reason, state.instruction_length = 0x1000, reason, LENGTHS[reason]
            state.segs[CS].attributes, state.cpl = code, cpl
            state.dirty |= Dirty.SEGMENTS
            for register, value in registers.items():
                setattr(state, register, value)
            served = self.native and vcpu.cpu.serve_exit()
            self.served[f"{name} {'natively' if served else 'by Python'}"] += 1
            if not served:
                exits.EXIT_HANDLERS[state.exit_reason](vcpu)
                interrupts.deliver_pending(vcpu)

    def picture(self) -> list[object]:
        """All that has to be the same."""
        state, octets, domain = self.vcpu.state, self.machine.memory.octets, self.guest.domain
        found: list[object] = [getattr(state, name) for name in (*GENERAL, "rip", "rflags", "kernel_gs_base")]
        found += [state.segs[FS].base, state.segs[GS].base]
        found += [state.injection & interrupts.WAITING and state.injection, state.injection_error_code, state.interrupt_window]
        found += [sorted(domain.hypercall_counts().items()), domain.is_shut_down, domain.native_ports.queues.tobytes()]
        found.append(bytes(octets[domain.shared_info + 2048 : domain.shared_info + 3072]))
        found += [bytes(self._page(pfn)) for pfn in (CONTROL, WORDS)]
        for vcpu in self.vcpus:
            found += [bytes(octets[vcpu.info : vcpu.info + 16]), bytes(vcpu.gate.apic), vcpu.state.cr8]
            found += [list(vcpu.gate.event_tails), vcpu.blocked, vcpu.gate.timer_deadline]
        return found

    def _page(self, pfn: int) -> memoryview:
        machine = self.guest.mfns[pfn] << 12
        return self.machine.memory.octets[machine : machine + 4096]

    def put(self, pfn: int, data: bytes) -> None:
        self._page(pfn)[: len(data)] = data


class Pair(MachinePair[Side]):
    """Both, and what the kernel does."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = random.Random(seed)
        fifo, x2apic = self.random.random() < 0.5, self.random.random() < 0.9
        callback, upcalls = self.random.choice((0, 0xF3, 0xF3, 0x50)), tuple(self.random.choice((0, 0, 0x50)) for _ in range(VCPUS))
        super().__init__(lambda: Side(fifo=fifo, x2apic=x2apic, callback=callback, upcalls=upcalls), monkeypatch)
        self.python.guest.domain.counter.khz = self.native.guest.domain.counter.khz  # each machine has measured it

    def step(self) -> None:
        choices = (self._cpuid, self._hypercall, self._hypercall, self._read, self._write, self._write, self._window)
        if self.random.random() < 0.3:
            self._disturb()
        name, reason, registers = self.random.choice(choices)()
        registers["rflags"] = self.random.choice(FLAGS)
        cpl = self.random.choice((*(0,) * 20, 3))
        code = self.random.choice((*(CODE64,) * 20, CODE32))
        for side in self.sides:
            side.exit(name, reason, registers, cpl=cpl, code=code)
        assert self.native.picture() == self.python.picture(), (name, {key: hex(value) for key, value in registers.items()}, cpl, hex(code))

    def _cpuid(self) -> tuple[str, ExitReason, dict[str, int]]:
        high = self.random.choice((0, 0, 1 << 32))
        return "cpuid", ExitReason.CPUID, {"rax": self.random.choice(LEAVES) | high, "rcx": self.random.choice((0, 0, 1, 2)) | high}

    def _window(self) -> tuple[str, ExitReason, dict[str, int]]:
        return "window", ExitReason.INTERRUPT_WINDOW, {}

    def _read(self) -> tuple[str, ExitReason, dict[str, int]]:
        return "rdmsr", ExitReason.RDMSR, {"rcx": self._register(), "rax": 5, "rdx": 6}

    def _write(self) -> tuple[str, ExitReason, dict[str, int]]:
        register, value = self._register(), self.random.choice(VALUES)
        if register in (APIC + 0x08, APIC + 0x0B, APIC + 0x3F):
            value = self.random.choice((0, 0, 0, *VECTORS, 0x100, 0x150, 1 << 32))
        elif register == APIC + 0x30:
            command = self.random.choice(VECTORS) | self.random.choice((0, 0, 0, 0, 1 << 8, 1 << 11, 1 << 14, 1 << 12))
            command |= self.random.choice((0, 0, 1, 2, 3)) << 18
            value = command | self.random.choice((0, 2, 4, 6, 1, 0x15, 0x10015, 0xFF, 0xFFFFFFFF)) << 32
        high = self.random.choice((0, 0, 7 << 32))
        return "wrmsr", ExitReason.WRMSR, {"rcx": register | high, "rax": value & 0xFFFFFFFF | high, "rdx": value >> 32 | high}

    def _register(self) -> int:
        kind = self.random.random()
        if kind < 0.4:
            return self.random.choice(BASES)
        if kind < 0.9:
            return self.random.choice(
                (APIC + 0x0B, APIC + 0x0B, APIC + 0x08, APIC + 0x30, APIC + 0x30, APIC + 0x3F, APIC + 0x20, APIC + 0x0F)
            )
        return self.random.choice(OTHER_REGISTERS)

    def _address(self, size: int) -> int:
        """Of the arguments' page, by one way or another; near its end; of a page that is not there."""
        where = self.random.choice((SINGLE, SINGLE, LARGE, HUGE)) + (ARGUMENTS << 12)
        if self.random.random() < 0.9:
            return where
        wrong = (PAGES - 1 << 12, PAGES << 12, HUGE + (HOLE << 12), HUGE << 1, 1 << 47, MASK64 - 7, 1 << 46)
        return self.random.choice((where + 4096 - size, where + 4096 - size + 4, *wrong))

    def _hypercall(self) -> tuple[str, ExitReason, dict[str, int]]:
        kind = self.random.randrange(5)
        if kind < 2:
            command = self.random.choice((events.EVTCHNOP_send,) * 9 + (events.EVTCHNOP_unmask,))
            port = self.random.choice((*self.native.ports, *self.native.ports, 0, 77, 5000, 1 << 17, 1 << 31))
            name, number, arguments, data = "send", xen.HYPERVISOR_event_channel_op, (command, self._address(4)), struct.pack("<I", port)
        elif kind < 4:
            set_timer, stop = vcpus.VCPUOP_set_singleshot_timer, vcpus.VCPUOP_stop_singleshot_timer
            command = self.random.choice((vcpus.VCPUOP_is_up, set_timer, set_timer, set_timer, stop, 99))
            arguments = (command, self.random.choice((0, 0, 0, 1, 2, 8000, 1 << 32)), self._address(16))
            name, number = "vcpu_op", xen.HYPERVISOR_vcpu_op
            data = struct.pack("<QI4x", self.random.choice(DEADLINES), self.random.choice((0, 0, 0, 1)))
        else:
            name, arguments, data = "another", (self.random.randrange(2), 0), b""
            number = self.random.choice((xen.HYPERVISOR_xen_version, xen.HYPERVISOR_fpu_taskswitch, xen.HYPERVISOR_stack_switch, 77))
        for side in self.sides:
            side.put(ARGUMENTS, data)
            side.put(ARGUMENTS + 1, data)
            if len(data) > 4:
                side.put(ARGUMENTS, data.ljust(4096 - len(data), b"\0") + data)
        registers = dict(zip(("rdi", "rsi", "rdx"), (*arguments, 0), strict=False))
        return name, ExitReason.HYPERCALL, {"rax": number, **registers}

    def _disturb(self) -> None:
        """The guest takes what was injected, handles events, loads CR8; others sleep, wake, or are not there for interrupts."""
        kind, number = self.random.randrange(6), self.random.randrange(1, VCPUS)
        value, flag = self.random.choice(VECTORS), self.random.randrange(2)
        for side in self.sides:
            state, other = side.vcpu.state, side.vcpus[number]
            with side.machine.lock:
                if kind < 3:
                    state.injection = 0
                elif kind == 3:
                    state.cr8 = value >> 4
                elif kind == 4:
                    for vcpu in side.vcpus:
                        forget_events(vcpu, flag)
                    side.put(CONTROL, bytes(4096))
                    forget_ports(side.guest.domain, flag)
                else:
                    other.blocked = flag
                    other.local_apic.write(local_apic.SVR, 0xFF | value % 2 << 8)


@pytest.mark.timeout(60 + CALLS // 50)
def test_native_code_does_what_python_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Domain, "add_timer", lambda domain, deadline_ns, callback: Timer(deadline_ns, callback))  # none ever fires
    totals: Counter[str] = Counter()
    calls, seed = 0, SEED
    while calls < CALLS:
        pair = Pair(seed, monkeypatch)
        for _ in range(CALLS_PER_MACHINE):
            pair.step()
            calls += 1
        totals += pair.native.served
        pair.close()
        seed += 1
    print(f"\n{calls} calls on {seed - SEED} machines: {sorted(totals.items())}")
    for name in ("cpuid", "send", "vcpu_op", "rdmsr", "wrmsr"):
        assert totals[f"{name} natively"] > CALLS / 200, totals
        assert totals[f"{name} by Python"] > 0, totals
