"""Compare-and-exchange: which registers it writes."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import DATA, Sandbox
from tests.engine.assembler import assemble

WIDE = 0x1122334455667788
ZF = 1 << 6


@pytest.mark.parametrize("form", ["lock cmpxchg [rbx], ecx", "cmpxchg [rbx], ecx"])
@pytest.mark.parametrize("equal", [True, False])
def test_32_bits_in_memory(box: Sandbox, form: str, *, equal: bool) -> None:
    """RAX is untouched by success and zero-extended by failure (Intel SDM: the accumulator is loaded only then)."""
    box.write(DATA, 0x55667788 if equal else 0x99)
    cpu = box.cpu(assemble(f"{form}; syscall"))
    cpu.state.rax, cpu.state.rbx, cpu.state.rcx = WIDE, DATA, 0xAABBCCDD
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == (WIDE if equal else 0x99)
    assert box.read(DATA) == (0xAABBCCDD if equal else 0x99)
    assert bool(cpu.state.rflags & ZF) == equal


@pytest.mark.parametrize("equal", [True, False])
def test_32_bits_in_a_register(box: Sandbox, *, equal: bool) -> None:
    """A destination register is untouched by failure, upper half included."""
    cpu = box.cpu(assemble("cmpxchg ebx, ecx; syscall"))
    before = WIDE if equal else WIDE + 1
    cpu.state.rax, cpu.state.rbx, cpu.state.rcx = WIDE, before, 0xAABBCCDD
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == (WIDE if equal else before & 0xFFFFFFFF)
    assert cpu.state.rbx == (0xAABBCCDD if equal else before)


@pytest.mark.parametrize(("size", "register", "mask"), [(8, "cl", 0xFF), (16, "cx", 0xFFFF), (64, "rcx", (1 << 64) - 1)])
@pytest.mark.parametrize("equal", [True, False])
def test_other_sizes(box: Sandbox, size: int, register: str, mask: int, *, equal: bool) -> None:
    old = WIDE & mask if equal else 0x13 & mask
    box.write(DATA, old)
    cpu = box.cpu(assemble(f"lock cmpxchg [rbx], {register}; syscall"))
    cpu.state.rax, cpu.state.rbx, cpu.state.rcx = WIDE, DATA, 0x42
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == (WIDE if equal else WIDE & ~mask | 0x13)
    assert box.read(DATA) == (0x42 if equal else old)
