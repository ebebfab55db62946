"""Random exits of a vCPU: faults, interrupts, system calls, far transfers, accesses without memory, MSRs, with registers and instructions
of a hostile guest's choice.

The handlers may crash the domain (that is what Xen does, too) or fault on its memory; anything else is a defect. The seeds are fixed;
PYXEN_LONG=1 takes many more, from a base that PYXEN_SEED names.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from typing import ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from pyxen.engine.interface import CS, Dirty, ExitReason
from pyxen.hypervisor.exits import EXIT_HANDLERS
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hvm import exits as hvm_exits
from pyxen.hypervisor.hvm import guest_paging, interrupts, msr, processor_reset
from pyxen.hypervisor.hypercall_table import HYPERCALLS
from pyxen.hypervisor.instruction import REGISTERS
from pyxen.hypervisor.traps import deliver_pending
from pyxen.hypervisor.vcpu import TrapEntry, Vcpu
from tests.security.campaign import LONG, SEED, explore
from tests.security.hostile_guest import EDGES, WIDE_EDGES
from tests.security.hostile_pvh import HostilePvhGuest
from tests.security.octets import Octets, octets
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import BASE, MASK64, PAGE, SmallDomain, new_machine

SEEDS = int(os.environ.get("PYXEN_SEEDS", "100" if LONG else "2"))
EXAMPLES, STEPS = 12, 50
CHECK_EVERY = 100
OCTETS = octets(113)
TIMES = st.integers(1, 8)

PREFIXES = (b"", b"", b"", b"\x66", b"\xf0", b"\xf3", b"\xf2", b"\x48", b"\x41", b"\x4c", b"\x49", b"\x2e", b"\x66\x48", b"\x66" * 14)
OPCODES = [
    *(
        bytes([octet])
        for octet in (0xE4, 0xE5, 0xE6, 0xE7, 0xEC, 0xED, 0xEE, 0xEF, 0xFA, 0xFB, 0xF4, 0xCF, 0xCB, 0xCA, 0xCC, 0xCD, 0x6C, 0x8E)
    ),
    *(
        bytes([octet])
        for octet in (0x88, 0x89, 0xC6, 0xC7, 0x86, 0x87, 0x00, 0x01, 0x08, 0x09, 0x20, 0x21, 0x28, 0x29, 0x31, 0x80, 0x81, 0x83, 0xA3)
    ),
    *(b"\x0f" + bytes([octet]) for octet in (0x06, 0x09, 0x20, 0x21, 0x22, 0x23, 0x30, 0x31, 0x32, 0x33, 0xA2, 0x01, 0x00, 0x0B, 0xFF)),
    *(b"\x0f" + bytes([octet]) for octet in (0xB0, 0xB1, 0xC0, 0xC1, 0xC3, 0xAB, 0xB3, 0xBB, 0xBA, 0xC7, 0x29, 0x7F)),
    b"\x0f\x0bxen\x0f\xa2",
]
REASONS = (
    *[ExitReason.EXCEPTION] * 5,
    ExitReason.SOFTWARE_INTERRUPT,
    *[ExitReason.SYSCALL] * 3,
    ExitReason.SYSENTER,
    *[ExitReason.FAR_TRANSFER] * 2,
    ExitReason.CPUID,
    ExitReason.KICK,
)
CODE_PAGE, STACK_PAGE, DATA_PAGE = 1, 2, 3


class Exits(RuleBasedStateMachine):
    """``handled`` counts the exits of all examples by reason."""

    handled: ClassVar[Counter[str]] = Counter()
    dice: Octets

    def __init__(self) -> None:
        super().__init__()
        self.machine = new_machine()
        self.free = self.machine.memory.free_frames
        self.exits = 0

    def _count(self, reason: ExitReason) -> None:
        self.handled[reason.name] += 1
        self.exits += 1
        if not self.exits % CHECK_EVERY:
            invariants.check(self.machine)

    def teardown(self) -> None:
        try:
            invariants.check(self.machine)
            assert "internal error" not in self.machine.dom0.read_console_ring()
            for domain in self.machine.dom0.list_domains()[1:]:
                self.machine.dom0.destroy_domain(domain.domid)
            invariants.check(self.machine)
            assert self.machine.memory.free_frames == self.free
        finally:
            self.machine.close()


class PvExits(Exits):
    """Puts a vCPU into the state after a random exit and has it handled."""

    def __init__(self) -> None:
        super().__init__()
        machine = self.machine
        self.guest = SmallDomain(machine, vcpus=2)
        self.gdt = self.guest.free_page()
        with machine.lock:
            self.guest.domain.address_space.new_user_root(self.guest.vcpu, self.guest.l4)
        self.guest.domain.vm_assist = MASK64

    def _address(self) -> int:
        kind = self.dice.randrange(10)
        if kind < 6:
            return BASE + self.dice.randrange(64) * PAGE + self.dice.choice((0, 8, 64, 512, PAGE - 1, PAGE - 8, PAGE - 16, PAGE - 64))
        if kind < 7:
            return self.dice.choice(
                (0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, 0xFFFF_8200_0001_0000, 0xFFFF_8200_0001_0FF8, 0xFFFF_8800_0000_0000)
            )
        return self.dice.choice((*EDGES, *WIDE_EDGES, self.dice.getrandbits(64)))

    def _word(self) -> int:
        table = self.dice.choice(self.guest.mfns) << 12 | self.dice.choice((0x67, 0x65, 0, 1, 0xE7))
        return self.dice.choice((self._address(), table, self.dice.choice(EDGES), self.dice.getrandbits(64), 0xE033, 0xE02B, 0x33, 7))

    def _fill(self, page: int, offset: int, data: bytes) -> None:
        start = (self.guest.mfns[page] << 12) + offset
        self.machine.memory.octets[start : start + len(data)] = data

    def _prepare(self, vcpu: Vcpu) -> None:
        state, dice = vcpu.state, self.dice
        if dice.random() < 0.3:
            vcpu.toggle_mode()
        for name in REGISTERS:
            setattr(state, name, self._word())
        instruction = dice.choice(PREFIXES) + dice.choice(OPCODES) + dice.randbytes(16)
        offset = dice.choice((0, 100, PAGE - 1, PAGE - 2, PAGE - 5, PAGE - 15))
        self._fill(CODE_PAGE, offset, instruction[: PAGE - offset])
        self._fill(STACK_PAGE, 0, instruction[PAGE - offset :])
        state.rip = BASE + CODE_PAGE * PAGE + offset if dice.random() < 0.9 else self._address()
        if dice.random() < 0.7:
            state.rsp = BASE + STACK_PAGE * PAGE + dice.choice((1024, 2048, 2049, 64, PAGE - 8, PAGE - 64, PAGE - 72))
            where = (state.rsp - BASE) % PAGE
            self._fill(STACK_PAGE, where, struct.pack("<10Q", *(self._word() for _ in range(10)))[: PAGE - where])
        state.rflags = dice.getrandbits(22) | 2
        state.cr2 = self._address()
        vcpu.kernel_sp = BASE + STACK_PAGE * PAGE + 2048 if dice.random() < 0.8 else self._address()
        vcpu.iopl = dice.randrange(4)
        vcpu.io_bitmap = dice.choice((None, (self._address(), dice.choice((0, 8, 65536)))))
        for vector in range(0, 256, 5) if dice.random() < 0.2 else (6, 13, 14, 128):
            entry = TrapEntry(self._address(), dice.randrange(4), dice.random() < 0.5)
            vcpu.traps[vector] = entry if dice.random() < 0.8 else None
        for name in ("event_callback", "failsafe_callback", "syscall_callback", "syscall32_callback", "sysenter_callback"):
            setattr(vcpu, name, dice.choice((0, BASE, self._address())))
        vcpu.nmi_pending = dice.random() < 0.1
        self.machine.memory.octets[vcpu.info] = dice.randrange(256)
        self.machine.memory.octets[vcpu.info + 1] = dice.randrange(256)

    @rule(reason=st.sampled_from(REASONS), octets=OCTETS, times=TIMES)
    def exit(self, reason: ExitReason, octets: Octets, times: int) -> None:
        self.dice = octets
        for _ in range(times):
            self._one(reason)
            self._count(reason)

    def _one(self, reason: ExitReason) -> None:
        vcpu, state, dice = self.guest.vcpu, self.guest.vcpu.state, self.dice
        with self.machine.lock:
            self._prepare(vcpu)
            state.exit_reason = reason
            state.vector = dice.choice((14, 13, 1, 6, 7, 13, 14, 14, dice.randrange(32)))
            state.error_code = dice.choice((0, 0, 3, 3, 7, 2, 0x33, dice.getrandbits(16)))
            state.instruction_length = 2
            if reason is ExitReason.SOFTWARE_INTERRUPT:
                state.vector = dice.randrange(256)
            elif reason is ExitReason.SYSCALL:
                state.rax = dice.choice((23, 23, dice.choice(HYPERCALLS).number, self._word()))
            note(
                f"{reason.name} vector {state.vector} error {state.error_code:#x} rip {state.rip:#x} cr2 {state.cr2:#x} rax {state.rax:#x}"
            )
            try:
                EXIT_HANDLERS[reason](vcpu)
                deliver_pending(vcpu)
            except GuestFault:
                pass
            if self.guest.domain.is_shut_down:
                self.guest.domain.resume()
            if not vcpu.kernel_mode and dice.random() < 0.5:
                vcpu.toggle_mode()
            vcpu.wake()


#: Those that a PVH guest's engine has; the ones that end its domain seldom.
HVM_REASONS = (
    ExitReason.BAD_MEMORY,
    ExitReason.BAD_MEMORY,
    ExitReason.BAD_MEMORY,
    ExitReason.RDMSR,
    ExitReason.WRMSR,
    ExitReason.WRMSR,
    ExitReason.HYPERCALL,
    ExitReason.IO,
    ExitReason.CPUID,
    ExitReason.HALT,
    ExitReason.KICK,
    ExitReason.INTERRUPT_WINDOW,
    ExitReason.TRIPLE_FAULT,
)
#: mov, xchg, stos, alu, movzx, movsx, test, cmp with a memory operand; and what is not emulated: movs, cmpxchg, movups, push, call, fld.
HVM_OPCODES = (
    *(bytes([octet]) for octet in (0x8B, 0x89, 0x88, 0x8A, 0xC7, 0xC6, 0x87, 0x86, 0xAB, 0xAA, 0x01, 0x03, 0x09, 0x0B, 0x21, 0x29, 0x31)),
    *(bytes([octet]) for octet in (0x39, 0x3B, 0x85, 0x81, 0x83, 0x80, 0xA1, 0xA3, 0x63, 0xF7, 0xA5, 0xFF, 0xD9, 0x8F, 0x6D)),
    *(b"\x0f" + bytes([octet]) for octet in (0xB6, 0xB7, 0xBE, 0xBF, 0xB1, 0x10, 0xC1, 0xAB, 0xBA, 0x01, 0x0B)),
)
#: ModRM: [disp32] and [RIP+disp32], [eax], [ebx+disp8], [SIB], a register.
MODRMS = (0x05, 0x00, 0x43, 0x04, 0x4C, 0x84, 0xC0, 0x0D, 0x15)
APIC = 0xFEE00000
CODE, TABLES, LARGE_PAGE, PAGING_FLAGS = 16, 40, 1 << 7, 0x63
MSRS = (*msr._TABLE, *range(0x800, 0x840), *[0x80B, 0x830, 0x83F, 0x832, 0x838, 0x6E0, 0x1B] * 6)


class PvhExits(Exits):
    """Accesses to the local APIC's page and to nothing, MSRs, ports, hypercalls, in each mode of a processor."""

    def __init__(self) -> None:
        super().__init__()
        self.hostile = HostilePvhGuest(self.machine, SmallDomain(self.machine))
        self.guest = self.hostile.guest

    def _mode(self) -> None:
        """Paging and the size of code; tables that map everything as it is, or anything."""
        state, dice = self.guest.vcpu.state, self.dice
        mode = dice.choice(("flat", "long", "long", "pae", "short", "any"))
        state.cr0, state.cr4, state.efer, state.cr3 = 0x11, 0, 0, TABLES << 12
        code = state.segs[CS]
        code.base, code.limit, code.attributes = dice.choice((0, 0, 0, 0x1000)), 0xFFFFFFFF, processor_reset.CODE32
        first = [number << 30 | LARGE_PAGE | PAGING_FLAGS for number in range(4)]
        if mode == "long":
            state.cr0, state.cr4, state.efer = 0x80000011, 0x20, 0x500
            code.attributes = dice.choice((processor_reset.CODE64, processor_reset.CODE64, processor_reset.CODE32))
            self._store(TABLES, struct.pack("<Q", (TABLES + 1) << 12 | PAGING_FLAGS))
            self._store(TABLES + 1, struct.pack("<4Q", *first))
        elif mode == "pae":
            state.cr0, state.cr4 = 0x80000011, 0x20
            self._store(TABLES, struct.pack("<4Q", *((TABLES + 1 + number) << 12 | 1 for number in range(4))))
            for number in range(4):
                entries = ((number << 30 | index << 21) | LARGE_PAGE | PAGING_FLAGS for index in range(512))
                self._store(TABLES + 1 + number, struct.pack("<512Q", *entries))
        elif mode == "short":
            state.cr0, state.cr4 = 0x80000011, 0x10
            self._store(TABLES, struct.pack("<1024I", *(index << 22 | LARGE_PAGE | PAGING_FLAGS for index in range(1024))))
        elif mode == "any":
            state.cr0, state.cr4 = dice.choice((0x80000011, 0x80010011)), dice.choice((0, 0x20, 0x30))
            state.efer, state.cr3 = dice.choice((0, 0x500)), dice.getrandbits(20) << 12
            self._store(TABLES, dice.randbytes(64) * 64)
            code.attributes = dice.getrandbits(24)

    def _store(self, gfn: int, data: bytes) -> None:
        machine = self.guest.container.physical_map.machine_address(gfn << 12, write=True)
        if machine is not None:
            self.machine.memory.octets[machine : machine + len(data)] = data

    def _where(self) -> int:
        """Mostly in the local APIC's page."""
        dice = self.dice
        apic = APIC + dice.choice((dice.randrange(0x40) << 4, 0x300, 0x310, 0x380, 0xB0, 0xF0, dice.randrange(4096)))
        return dice.choice((apic, apic, apic, 0xFED00000, 0x1000000, (96 << 12) + 8, dice.getrandbits(36)))

    def _prepare(self, reason: ExitReason) -> None:
        vcpu, dice = self.guest.vcpu, self.dice
        state = vcpu.state
        self._mode()
        where = self._where()
        for name in REGISTERS:
            setattr(state, name, dice.choice((where, where, dice.choice(EDGES), dice.choice(WIDE_EDGES), dice.getrandbits(64))))
        offset = dice.choice((0, 100, PAGE - 1, PAGE - 2, PAGE - 5, PAGE - 15))
        instruction = dice.choice(PREFIXES) + dice.choice(HVM_OPCODES) + bytes([dice.choice(MODRMS)])
        instruction += struct.pack("<I", where & 0xFFFFFFFF) + dice.randbytes(9)
        self._store(CODE, bytes(offset) + instruction[: PAGE - offset])
        self._store(CODE + 1, instruction[PAGE - offset :])
        state.rip = dice.choice(((CODE << 12) + offset, (CODE << 12) + offset, where, dice.getrandbits(64)))
        state.rflags = dice.getrandbits(22) | 2
        state.cpl = dice.choice((0, 0, 0, 3))
        state.qualification, state.error_code = where, dice.choice((0, 2, 2, 16))
        state.instruction_length = dice.choice((1, 2, 3))
        if reason in (ExitReason.RDMSR, ExitReason.WRMSR):
            state.rcx = dice.choice((dice.choice(MSRS), dice.choice(MSRS), dice.getrandbits(32)))
            state.rax, state.rdx = (
                dice.choice((0x4500, 0xFEE00D00, 0x40000, dice.getrandbits(32))),
                dice.choice((0, 0, 2, dice.getrandbits(32))),
            )
        elif reason is ExitReason.HYPERCALL:
            number = dice.choice((dice.choice(HYPERCALLS).number, dice.getrandbits(64)))
            state.rax, state.rdi, state.rbx = number, dice.randrange(12), dice.randrange(12)
            state.rsi = state.rcx = dice.choice((0, 4096, where))
        elif reason is ExitReason.IO:
            size = dice.choice((1, 2, 4))
            state.qualification = dice.getrandbits(16) | (size << 4 | dice.randrange(16) | dice.choice((0x80, 0x100, 0x200))) << 16

    @rule(reason=st.sampled_from(HVM_REASONS), octets=OCTETS, times=TIMES)
    def exit(self, reason: ExitReason, octets: Octets, times: int) -> None:
        self.dice = self.hostile.dice = octets
        self.hostile.recover()
        vcpu, state = self.guest.vcpu, self.guest.vcpu.state
        for _ in range(times):
            with self.machine.lock:
                self._prepare(reason)
                state.exit_reason = reason
                note(f"{reason.name} at {state.qualification:#x}, rip {state.rip:#x} rcx {state.rcx:#x} rax {state.rax:#x}")
                hvm_exits.EXIT_HANDLERS[reason](vcpu)
                interrupts.deliver_pending(vcpu)
                if octets.random() < 0.5:
                    state.injection = 0  # the guest has taken it
                self._back_to_life()
            self._count(reason)

    def _back_to_life(self) -> None:
        vcpu = self.guest.vcpu
        if self.guest.domain.is_shut_down:
            self.guest.domain.resume()
        if not vcpu.initialised:
            processor_reset.enter_at(vcpu, 0, 0)
        vcpu.was_reset = False
        vcpu.wake()

    @rule(octets=OCTETS, write=st.booleans())
    def walk(self, octets: Octets, write: bool) -> None:
        """The guest's page tables, by which hypercalls find their arguments."""
        self.dice = octets
        with self.machine.lock:
            self._mode()
            for _ in range(20):
                address = octets.choice((octets.getrandbits(64), octets.getrandbits(48), octets.getrandbits(22)))
                found = guest_paging.machine_address(self.guest.vcpu, self.guest.container.physical_map, address, write=write)
                assert found is None or self.machine.memory.owner[found >> 12] == self.guest.domid
            self.guest.vcpu.state.dirty |= Dirty.ALL


@pytest.mark.long
@pytest.mark.timeout(4 * 3600 if LONG else 600)
@pytest.mark.parametrize("machine", [PvExits, PvhExits])
def test_random_exits(machine: type[Exits], capsys: pytest.CaptureFixture[str]) -> None:
    handled: Counter[str] = Counter()
    for seed in range(SEED, SEED + SEEDS):
        explore(type(machine.__name__, (machine,), {"handled": handled}), seed=seed, examples=EXAMPLES, steps=STEPS)
    assert len(handled) >= 7 and min(handled.values()) > handled.total() // 200, f"some exits are too rare: {handled}"
    if LONG:
        with capsys.disabled():
            print(f"\n{machine.__name__}: {handled.total()} exits: {dict(handled)}")
