"""RDTSC and RDTSCP: the host's counter scaled and moved, or exits."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, Sandbox
from tests.engine.assembler import assemble

GP = 13
CR4_TSD = 4


@pytest.mark.parametrize("instruction", ["rdtsc", "rdtscp"])
@pytest.mark.parametrize(("scale", "numerator"), [(0, 4), (1 << 48, 4), (3 << 46, 3), (1 << 50, 16)])
@pytest.mark.parametrize("offset", [0, 1 << 60, -(1 << 60)])
def test_it_reads_the_scaled_counter_plus_an_offset(box: Sandbox, instruction: str, scale: int, numerator: int, offset: int) -> None:
    cpu = box.cpu(assemble(f"mov ecx, 9; {instruction}; syscall"))
    state = cpu.state
    state.tsc_scale, state.tsc_offset, state.tsc_aux = scale, offset & (1 << 64) - 1, 5
    before = box.engine.tsc()
    assert cpu.run() == ExitReason.SYSCALL
    after = box.engine.tsc()
    seen = (state.rdx << 32 | state.rax) - offset & (1 << 64) - 1
    assert before * numerator // 4 <= seen <= after * numerator // 4
    assert state.rcx == (5 if instruction == "rdtscp" else 9)


@pytest.mark.parametrize(("source", "length", "is_rdtscp"), [("rdtsc", 2, 0), ("rdtscp", 3, 1), (".byte 0x2e; rdtsc", 3, 0)])
@pytest.mark.parametrize(("cpl", "deprivileged"), [(1, True), (3, True), (0, False), (3, False)])
def test_it_exits_if_asked_to(box: Sandbox, source: str, length: int, is_rdtscp: int, cpl: int, deprivileged: bool) -> None:
    cpu = box.cpu(assemble(f"mov eax, 7; {source}; syscall"), cpl=cpl, deprivileged=deprivileged)
    cpu.state.rdtsc_exits = 1
    cpu.state.rdx = 8
    assert cpu.run() == ExitReason.RDTSC
    state = cpu.state
    assert (state.rip, state.rax, state.rdx) == (CODE + 5, 7, 8)
    assert (state.instruction_length, state.qualification) == (length, is_rdtscp)
    state.rdtsc_exits = 0
    if deprivileged:
        assert cpu.run() == ExitReason.SYSCALL
        assert state.rax != 7


@pytest.mark.parametrize("instruction", ["rdtsc", "rdtscp"])
@pytest.mark.parametrize("exits", [0, 1])
def test_tsd_comes_first(box: Sandbox, instruction: str, exits: int) -> None:
    cpu = box.cpu(assemble(instruction), cpl=3)
    cpu.state.cr4 |= CR4_TSD
    cpu.state.rdtsc_exits = exits
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rip) == (GP, CODE)
