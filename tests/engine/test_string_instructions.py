"""REP MOVS and REP STOS, which the engine runs a page at a time, against what the manual says they do an element at a time."""

from __future__ import annotations

import random
import threading

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, DATA, PAGE, PRESENT, WRITE, Sandbox
from tests.engine.assembler import assemble

SIZES = {"b": 1, "w": 2, "d": 4, "q": 8}
AREA = 5 * PAGE


def filled(box: Sandbox) -> bytearray:
    content = bytearray(random.Random(4).randbytes(AREA))
    box.memory[DATA : DATA + AREA] = bytes(content)
    return content


@pytest.mark.parametrize("suffix", SIZES)
@pytest.mark.parametrize(
    ("source", "target", "size"),
    [
        (0, 2 * PAGE, PAGE),
        (13, 2 * PAGE + 5, PAGE + 24),
        (PAGE - 3, 3 * PAGE - 1, 64),
        (8, 0, 2 * PAGE),  # overlapping, towards lower addresses
        (0, 8, 256),  # overlapping, towards higher addresses: repeats the first elements
        (0, 1, 256),
        (0, 2 * PAGE, 0),
        (0, 2 * PAGE, 8),
    ],
)
def test_movs(box: Sandbox, suffix: str, source: int, target: int, size: int) -> None:
    element = SIZES[suffix]
    content = filled(box)
    for offset in range(0, size, element):
        content[target + offset : target + offset + element] = content[source + offset : source + offset + element]
    cpu = box.cpu(assemble(f"cld; rep movs{suffix}; syscall"))
    state = cpu.state
    state.rsi, state.rdi, state.rcx = DATA + source, DATA + target, size // element
    assert cpu.run() == ExitReason.SYSCALL
    assert (state.rsi, state.rdi, state.rcx) == (DATA + source + size, DATA + target + size, 0)
    assert box.memory[DATA : DATA + AREA] == content


@pytest.mark.parametrize("suffix", SIZES)
@pytest.mark.parametrize(("target", "size"), [(0, PAGE), (PAGE - 5, PAGE + 16), (3, 40), (0, 0)])
def test_stos(box: Sandbox, suffix: str, target: int, size: int) -> None:
    element = SIZES[suffix]
    content = filled(box)
    value = 0x8877665544332211
    pattern = value.to_bytes(8, "little")[:element]
    content[target : target + size] = pattern * (size // element)
    cpu = box.cpu(assemble(f"rep stos{suffix}; syscall"))
    state = cpu.state
    state.rax, state.rdi, state.rcx = value, DATA + target, size // element
    assert cpu.run() == ExitReason.SYSCALL
    assert (state.rdi, state.rcx, state.rax) == (DATA + target + size, 0, value)
    assert box.memory[DATA : DATA + AREA] == content


def test_downwards(box: Sandbox) -> None:
    content = filled(box)
    cpu = box.cpu(assemble("std; rep movsq; syscall"))
    state = cpu.state
    state.rsi, state.rdi, state.rcx = DATA + PAGE - 8, DATA + 3 * PAGE - 8, PAGE // 8
    assert cpu.run() == ExitReason.SYSCALL
    content[2 * PAGE : 3 * PAGE] = content[:PAGE]
    assert box.memory[DATA : DATA + AREA] == content
    assert state.rsi == DATA - 8


def test_a_source_in_gs(box: Sandbox) -> None:
    content = filled(box)
    cpu = box.cpu(assemble("rep movsb es:[rdi], gs:[rsi]; syscall"))
    state = cpu.state
    state.segs[5].base = DATA + 16
    state.rsi, state.rdi, state.rcx = 0, DATA + PAGE, 32
    assert cpu.run() == ExitReason.SYSCALL
    assert box.memory[DATA + PAGE : DATA + PAGE + 32] == content[16:48]


def test_a_fault_in_the_middle_leaves_the_registers_there(box: Sandbox) -> None:
    window = 0x500000
    box.map(window, DATA, PRESENT | WRITE)
    cpu = box.cpu(assemble("rep stosq; syscall"))
    state = cpu.state
    state.rax, state.rdi, state.rcx = 7, window + 8, PAGE // 8 + 10
    assert cpu.run() == ExitReason.EXCEPTION
    assert (state.rip, state.cr2, state.rdi, state.rcx) == (CODE, window + PAGE, window + PAGE, 11)
    box.map(window + PAGE, DATA + PAGE, PRESENT | WRITE)
    assert cpu.run() == ExitReason.SYSCALL
    assert box.read(DATA + PAGE + 80) == 7
    assert box.read(DATA + PAGE + 88) == 0


def test_code_that_is_overwritten(box: Sandbox) -> None:
    function = CODE + PAGE
    box.load(assemble("mov eax, 1; ret", function), function)
    box.load(assemble("mov eax, 2; ret", function), DATA)
    cpu = box.cpu(
        assemble(
            f"mov rbx, {function}; call rbx; mov edx, eax; mov esi, {DATA}; mov edi, {function}; mov ecx, 6; rep movsb; call rbx; syscall"
        )
    )
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rdx, cpu.state.rax) == (1, 2)


def test_single_steps_see_every_element(box: Sandbox) -> None:
    cpu = box.cpu(assemble("rep stosb; syscall"))
    cpu.state.rflags, cpu.state.rdi, cpu.state.rcx = 0x102, DATA, 8
    for left in range(7, -1, -1):
        assert cpu.run() == ExitReason.EXCEPTION
        assert (cpu.state.vector, cpu.state.rcx) == (1, left)


def test_kicks_in_the_middle(box: Sandbox) -> None:
    """A long fill is interrupted between pages and goes on where it was."""
    pages = 512
    for page in range(pages):
        box.map(0x40000000 + page * PAGE, DATA + page % 4 * PAGE, PRESENT | WRITE)
    cpu = box.cpu(assemble("rep stosq; syscall"))
    state = cpu.state
    state.rdi, state.rcx = 0x40000000, pages * PAGE // 8
    stop = threading.Event()

    def kick() -> None:
        while not stop.is_set():
            cpu.kick()

    thread = threading.Thread(target=kick)
    thread.start()
    kicks = 0
    try:
        while cpu.run() == ExitReason.KICK:
            kicks += 1
            assert state.rdi + state.rcx * 8 == 0x40000000 + pages * PAGE
    finally:
        stop.set()
        thread.join()
    assert (state.exit_reason, state.rcx) == (ExitReason.SYSCALL, 0)
    assert kicks > 0
