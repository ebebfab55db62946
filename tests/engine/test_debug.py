"""Single steps and debug registers. All of them end in a #DB exit with DR6 set."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import Dirty, ExitReason, VirtualCpu
from pyxen.engine.sandbox import CODE, DATA, Sandbox
from tests.engine.assembler import assemble

DB = 1
TRAP_FLAG = 0x100
RESUME_FLAG = 0x10000
SINGLE_STEP = 1 << 14


def watch(cpu: VirtualCpu, number: int, address: int, kind: int = 0, length: int = 0) -> None:
    """Sets one debug register. kind: 0 execution, 1 writes, 3 reads and writes; length: 0..3 for 1, 2, 8, 4 bytes."""
    cpu.state.dr[number] = address
    cpu.state.dr[7] |= 2 << number * 2 | (kind | length << 2) << 16 + number * 4
    cpu.state.dirty |= Dirty.DEBUG


def test_single_step(box: Sandbox) -> None:
    cpu = box.cpu(assemble("inc rax; nop; pause; jmp 1f; nop; 1: inc rax; syscall"))
    cpu.state.rflags = TRAP_FLAG | 2
    for rip in (3, 4, 6, 9, 12):
        assert cpu.run() == ExitReason.EXCEPTION
        assert (cpu.state.vector, cpu.state.rip - CODE) == (DB, rip)
        assert cpu.state.dr[6] & SINGLE_STEP
        cpu.state.dr[6] = 0xFFFF0FF0
        cpu.state.dirty = Dirty.DEBUG
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rax, cpu.state.rflags & TRAP_FLAG) == (2, TRAP_FLAG)


def test_popf_starts_single_steps_after_the_next_instruction(box: Sandbox) -> None:
    cpu = box.cpu(assemble("push 0x102; popfq; nop; nop"))
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rip) == (DB, CODE + len(assemble("push 0x102; popfq; nop")))


def test_execution_breakpoint(box: Sandbox) -> None:
    cpu = box.cpu(assemble("inc rax; inc rax; inc rax; inc rax; syscall"))
    watch(cpu, 1, CODE + 6)
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rip, cpu.state.rax) == (DB, CODE + 6, 2)
    assert cpu.state.dr[6] & 0xF == 2
    cpu.state.rflags |= RESUME_FLAG
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rax, cpu.state.rflags & RESUME_FLAG) == (4, 0)


def test_the_resume_flag_covers_one_instruction(box: Sandbox) -> None:
    cpu = box.cpu(assemble("inc rax; inc rax; inc rax; syscall"))
    watch(cpu, 0, CODE)
    watch(cpu, 1, CODE + 3)
    cpu.state.rflags |= RESUME_FLAG
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.rip, cpu.state.dr[6] & 0xF) == (CODE + 3, 2)


def test_a_breakpoint_set_after_the_code_was_translated(box: Sandbox) -> None:
    cpu = box.cpu(assemble("inc rax; inc rax; syscall"))
    assert cpu.run() == ExitReason.SYSCALL
    cpu.state.rip = CODE
    watch(cpu, 3, CODE + 3)
    assert cpu.run() == ExitReason.EXCEPTION
    assert cpu.state.rip == CODE + 3
    cpu.state.dr[7] = 0x400
    cpu.state.dirty = Dirty.DEBUG
    assert cpu.run() == ExitReason.SYSCALL


@pytest.mark.parametrize(
    ("source", "kind", "hit"),
    [
        ("mov [rbx], eax", 1, True),
        ("mov eax, [rbx]", 1, False),
        ("mov eax, [rbx]", 3, True),
        ("mov [rbx + 3], al", 1, True),
        ("mov [rbx + 4], al", 1, False),
        ("mov [rbx - 1], ax", 1, True),
        ("inc dword ptr [rbx]", 1, True),
        ("lock inc dword ptr [rbx]", 1, True),
        ("lock inc dword ptr [rbx]", 3, True),
        ("xchg [rbx], rax", 3, True),
        ("push qword ptr [rbx]", 3, True),
    ],
)
def test_data_breakpoints_trap_after_the_instruction(box: Sandbox, source: str, kind: int, hit: bool) -> None:
    box.write(DATA + 0x100, 41, 4)
    head = f"mov rbx, {DATA + 0x100}; mov eax, 7; nop"
    cpu = box.cpu(assemble(f"{head}; {source}; nop; syscall"))
    watch(cpu, 2, DATA + 0x100, kind, 3)
    reason = cpu.run()
    if hit:
        assert (reason, cpu.state.vector) == (ExitReason.EXCEPTION, DB)
        assert cpu.state.rip == CODE + len(assemble(f"{head}; {source}"))
        assert cpu.state.dr[6] & 0xF == 4
        assert cpu.run() == ExitReason.SYSCALL
    else:
        assert reason == ExitReason.SYSCALL
    if "inc" in source:
        assert box.read(DATA + 0x100, 4) == 42  # once


def test_a_data_breakpoint_set_after_the_page_was_used(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; mov [rbx], eax; syscall"))
    assert cpu.run() == ExitReason.SYSCALL
    cpu.state.rip = CODE
    watch(cpu, 0, DATA, 1, 3)
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.dr[6] & 0xF) == (DB, 1)
