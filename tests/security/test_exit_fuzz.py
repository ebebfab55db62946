"""Random exits of a vCPU: faults, interrupts, system calls, far transfers, with registers and instructions of a hostile guest's choice.

The handlers may crash the domain (that is what Xen does, too) or fault on its memory; anything else is a defect. The seeds are fixed;
PYXEN_LONG=1 takes many more, from a base that PYXEN_SEED names.
"""

from __future__ import annotations

import os
import random
import struct

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.hypervisor.exits import EXIT_HANDLERS
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hypercall_table import HYPERCALLS
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.instruction import REGISTERS
from pyxen.hypervisor.traps import deliver_pending
from pyxen.hypervisor.vcpu import TrapEntry, Vcpu
from tests.security.hostile_guest import EDGES, WIDE_EDGES
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import BASE, MASK64, PAGE, SmallDomain, new_machine

LONG = bool(os.environ.get("PYXEN_LONG"))
SEED = int(os.environ.get("PYXEN_SEED", "1"))
RUNS = 300 if LONG else 8
EXITS = 3000 if LONG else 1500

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


class Exits:
    """Puts a vCPU into the state after a random exit and has it handled."""

    def __init__(self, machine: Hypervisor, dice: random.Random) -> None:
        self.machine = machine
        self.dice = dice
        self.guest = SmallDomain(machine, vcpus=2)
        self.gdt = self.guest.free_page()
        with machine.lock:
            self.guest.domain.address_space.new_user_root(self.guest.vcpu, self.guest.l4)
        self.guest.domain.vm_assist = MASK64
        self.story = ""

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

    def one(self) -> None:
        vcpu, state, dice = self.guest.vcpu, self.guest.vcpu.state, self.dice
        with self.machine.lock:
            self._prepare(vcpu)
            reason = dice.choice(REASONS)
            state.exit_reason = reason
            state.vector = dice.choice((1, 6, 7, 13, 13, 14, 14, 14, dice.randrange(32)))
            state.error_code = dice.choice((0, 0, 3, 3, 7, 2, 0x33, dice.getrandbits(16)))
            state.instruction_length = 2
            if reason is ExitReason.SOFTWARE_INTERRUPT:
                state.vector = dice.randrange(256)
            elif reason is ExitReason.SYSCALL:
                state.rax = dice.choice((23, 23, dice.choice(HYPERCALLS).number, self._word()))
            self.story = (
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


@pytest.mark.long
@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_random_exits(seed: int) -> None:
    machine = new_machine()
    try:
        free = machine.memory.free_frames
        exits = Exits(machine, random.Random(seed))
        try:
            for number in range(EXITS):
                exits.one()
                if number % 250 == 249:
                    invariants.check(machine)
        except Exception as error:
            pytest.fail(f"seed {seed}, exit {number}: {error!r} at {exits.story}")
        exits.guest.destroy()
        assert machine.memory.free_frames == free
    finally:
        machine.close()
