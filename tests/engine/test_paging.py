"""Page faults, the two TLB tags, accessed and dirty bits, and memory that is not there."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import Dirty, ExitReason
from pyxen.engine.sandbox import (
    ACCESSED,
    CODE,
    DATA,
    DIRTY,
    NO_EXECUTE,
    PAGE,
    PRESENT,
    STACK_TOP,
    USER,
    WRITE,
    Sandbox,
)
from tests.engine.assembler import assemble

PF, GP, SS = 14, 13, 12
HOLE = 0x500000
#: Bits of the page-fault error code.
P, W, U, R, I = 1, 2, 4, 8, 16  # noqa: E741

LOAD = assemble(f"mov rbx, {HOLE + 8}; mov rax, [rbx]; syscall")
STORE = assemble(f"mov rbx, {HOLE + 8}; mov [rbx], rax; syscall")
JUMP = assemble(f"mov rbx, {HOLE + 8}; jmp rbx")


@pytest.mark.parametrize(
    ("cpl", "code", "flags", "error"),
    [
        (1, LOAD, 0, 0),
        (3, LOAD, 0, U),
        (1, STORE, 0, W),
        (3, STORE, 0, U | W),
        (1, STORE, PRESENT | USER, P | W),
        (3, STORE, PRESENT | USER, P | W | U),
        (3, LOAD, PRESENT | WRITE, P | U),
        (3, STORE, PRESENT | WRITE, P | U | W),
        (1, LOAD, PRESENT | 1 << 51, P | R),
        (1, JUMP, 0, I),
        (3, JUMP, 0, I | U),
        (1, JUMP, PRESENT | NO_EXECUTE, P | I),
        (3, JUMP, PRESENT | USER | NO_EXECUTE, P | I | U),
    ],
)
def test_error_codes(box: Sandbox, cpl: int, code: bytes, flags: int, error: int) -> None:
    box.map(HOLE, DATA, flags)
    cpu = box.cpu(code, cpl=cpl)
    assert cpu.run() == ExitReason.EXCEPTION
    state = cpu.state
    at = HOLE + 8 if code is JUMP else CODE + 7
    assert (state.vector, state.error_code, state.cr2, state.rip) == (PF, error, HOLE + 8, at)


def test_a_kernel_without_wp_writes_to_read_only_pages(box: Sandbox) -> None:
    box.map(HOLE, DATA, PRESENT)
    cpu = box.cpu(STORE)
    assert cpu.run() == ExitReason.EXCEPTION
    cpu.state.cr0 &= ~(1 << 16)
    cpu.state.dirty = Dirty.CONTROL
    cpu.state.rax = 77
    assert cpu.run() == ExitReason.SYSCALL
    assert box.read(DATA + 8) == 77


def test_a_fault_does_not_stick(box: Sandbox) -> None:
    cpu = box.cpu(LOAD)
    for _ in range(5):
        assert cpu.run() == ExitReason.EXCEPTION
        assert (cpu.state.vector, cpu.state.error_code, cpu.state.rip) == (PF, 0, CODE + 7)
    box.map(HOLE, DATA, PRESENT)
    assert cpu.run() == ExitReason.SYSCALL  # an absent page is not remembered


def test_a_fault_in_the_second_half_of_an_access(box: Sandbox) -> None:
    box.map(HOLE, DATA, PRESENT | WRITE)
    cpu = box.cpu(assemble(f"mov rbx, {HOLE + PAGE - 4}; mov rax, -1; mov [rbx], rax; syscall"))
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.cr2, cpu.state.error_code) == (HOLE + PAGE, W)
    assert box.read(DATA + PAGE - 8) == 0  # nothing was written


NOT_CANONICAL = 0x0000900000000000


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize(
    ("source", "vector"),
    [
        ("mov rax, [rbx]", GP),
        ("mov [rbx], rax", GP),
        ("mov rax, [rbp]", SS),
        ("mov [rbp + rcx * 2 + 8], rax", SS),
        ("mov rax, [rbx + rbp]", GP),
        ("mov rax, [rsp + 8]", SS),
        ("mov rax, [r12]", GP),
        ("mov rax, [r13 + 8]", GP),
        ("mov rax, fs:[rbp]", GP),
        ("lock inc qword ptr [rbp]", SS),
        ("movups xmm0, [rbp]", SS),
        ("movups [rbp], xmm0", SS),
        ("pshufb xmm0, [rsp]", SS),
        ("push rax", SS),
        ("pop rax", SS),
        ("push qword ptr [rip]", SS),
        ("call rax", SS),
        ("ret", SS),
        ("leave", SS),
        ("pushfq", SS),
        ("movsq", GP),
        ("movabs rax, [0x0000900000000000]", GP),
    ],
)
def test_an_address_that_is_not_canonical(box: Sandbox, cpl: int, source: str, vector: int) -> None:
    cpu = box.cpu(assemble(f"nop; {source}"), cpl=cpl)
    state = cpu.state
    state.rbx = state.rbp = state.rsp = state.r12 = state.r13 = state.rsi = NOT_CANONICAL
    state.rax, state.rcx, state.cr2 = CODE, 1, 0x1234
    if source == "mov rax, [rbx + rbp]":
        state.rbp = 0
    assert cpu.run() == ExitReason.EXCEPTION
    assert (state.vector, state.error_code, state.rip, state.cr2) == (vector, 0, CODE + 1, 0x1234)


@pytest.mark.parametrize("offset", [1, 7, 8, 9, 15])
def test_a_16_byte_store_into_a_page_that_is_not_there_writes_nothing(box: Sandbox, offset: int) -> None:
    box.map(HOLE, DATA, PRESENT | WRITE)
    cpu = box.cpu(assemble(f"mov rbx, {HOLE + PAGE - 16 + offset}; pcmpeqd xmm0, xmm0; movups [rbx], xmm0; syscall"))
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.cr2 // PAGE, cpu.state.error_code) == (PF, HOLE // PAGE + 1, W)
    assert box.memory[DATA + PAGE - 32 : DATA + PAGE] == bytes(32)
    box.map(HOLE + PAGE, DATA + PAGE, PRESENT | WRITE)
    assert cpu.run() == ExitReason.SYSCALL
    start = DATA + PAGE - 16 + offset
    assert box.memory[start - 1 : start + 17] == b"\0" + b"\xff" * 16 + b"\0"


def test_an_instruction_that_reaches_into_an_absent_page_faults_at_itself(box: Sandbox) -> None:
    """The instructions before it in the same block have run, and RIP is at it and not at the block's start."""
    box.map(HOLE, DATA, PRESENT)
    code = assemble("inc rcx; inc rcx; movabs rax, 0x123456789")
    start = PAGE - len(code) + 4
    box.load(code[: len(code) - 4], DATA + start)
    cpu = box.cpu()
    cpu.state.rip = HOLE + start
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.rip, cpu.state.cr2, cpu.state.rcx) == (HOLE + start + 6, HOLE + PAGE, 2)
    box.map(HOLE + PAGE, DATA + PAGE, PRESENT)
    box.load(code[len(code) - 4 :] + b"\x0f\x05", DATA + PAGE)
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rax, cpu.state.rcx) == (0x123456789, 2)


def test_kernel_and_user_roots_alternate_without_a_flush(box: Sandbox) -> None:
    user_root = box.new_root()
    box.map(HOLE, DATA, PRESENT | WRITE)
    box.map(HOLE, DATA + PAGE, PRESENT | WRITE | USER, user_root)
    box.write(DATA + 8, 1)
    box.write(DATA + PAGE + 8, 3)
    cpu = box.cpu(LOAD)
    for _ in range(3):
        for cpl, root in ((1, box.root), (3, user_root)):
            cpu.state.cpl, cpu.state.cr3, cpu.state.rip = cpl, root, CODE
            cpu.state.dirty = Dirty.CONTROL | Dirty.SEGMENTS
            assert cpu.run() == ExitReason.SYSCALL
            assert cpu.state.rax == cpl


def test_translations_are_kept_until_they_are_flushed(box: Sandbox) -> None:
    box.map(HOLE, DATA, PRESENT | WRITE)
    box.write(DATA + 8, 1)
    box.write(DATA + PAGE + 8, 2)
    cpu = box.cpu(LOAD)

    def load() -> int:
        cpu.state.rip = CODE
        assert cpu.run() == ExitReason.SYSCALL
        return int(cpu.state.rax)

    assert load() == 1
    box.map(HOLE, DATA + PAGE, PRESENT | WRITE)
    cpu.state.dirty = Dirty.CONTROL
    assert load() == 1  # loading cr3 again does not flush
    cpu.flush_tlb_page(HOLE + PAGE)
    assert load() == 1  # another page
    cpu.flush_tlb_page(HOLE + 5)
    assert load() == 2
    box.map(HOLE, DATA, PRESENT | WRITE)
    cpu.state.dirty = Dirty.FLUSH_TLB
    assert load() == 1


def test_one_page_flushed_is_flushed_for_both_tags(box: Sandbox) -> None:
    box.map(HOLE, DATA, PRESENT | USER)
    cpu = box.cpu(LOAD)
    box.write(DATA + PAGE + 8, 9)

    def load(cpl: int) -> int:
        cpu.state.rip, cpu.state.cpl = CODE, cpl
        cpu.state.dirty |= Dirty.SEGMENTS
        assert cpu.run() == ExitReason.SYSCALL
        return int(cpu.state.rax)

    assert [load(1), load(3)] == [0, 0]
    box.map(HOLE, DATA + PAGE, PRESENT | USER)
    cpu.flush_tlb_page(HOLE)
    assert [load(1), load(3)] == [9, 9]


def test_accessed_and_dirty_bits(box: Sandbox) -> None:
    entry = box.map(HOLE, DATA, PRESENT | WRITE)
    cpu = box.cpu(LOAD)
    cpu.run()
    assert box.read(entry) & (ACCESSED | DIRTY) == ACCESSED
    box.run_code(cpu, STORE)
    assert box.read(entry) & (ACCESSED | DIRTY) == ACCESSED | DIRTY
    assert box.read(entry) & ~(ACCESSED | DIRTY) == DATA | PRESENT | WRITE


def test_large_pages(box: Sandbox) -> None:
    large_root = box.new_root()
    directory_pointers = box.read(large_root) & ~0xFFF
    directory = box.read(directory_pointers) & ~0xFFF
    box.write(directory + 8 * 8, 0 | PRESENT | WRITE | USER | 0x80)  # 16 MiB -> 0, 2 MiB
    cpu = box.cpu(assemble(f"mov rbx, {(16 << 20) + DATA}; mov dword ptr [rbx], 55; syscall"))
    cpu.state.cr3 = large_root
    assert cpu.run() == ExitReason.SYSCALL
    assert box.read(DATA, 4) == 55


@pytest.mark.parametrize("code", [LOAD, STORE, JUMP])
def test_an_access_outside_memory_is_reported(box: Sandbox, code: bytes) -> None:
    outside = 1 << 30
    box.map(HOLE, outside, PRESENT | WRITE)
    cpu = box.cpu(code)
    for _ in range(2):
        assert cpu.run() == ExitReason.BAD_MEMORY
        assert cpu.state.qualification & ~0xFFF == outside
        assert cpu.state.rip == (HOLE + 8 if code is JUMP else CODE + 7)


@pytest.mark.parametrize("root", [1 << 30, (1 << 40) - PAGE])
def test_page_tables_outside_memory_are_reported(box: Sandbox, root: int) -> None:
    cpu = box.cpu(LOAD)
    cpu.state.cr3 = root
    assert cpu.run() == ExitReason.BAD_MEMORY
    assert cpu.state.qualification & ~0xFFF == root


def test_the_last_frame_of_memory_is_memory(box: Sandbox) -> None:
    last = len(box.memory) - PAGE
    box.map(HOLE, last, PRESENT | WRITE)
    box.write(last + 8, 123)
    cpu = box.cpu(LOAD)
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == 123


def test_paging_off_addresses_memory_itself(box: Sandbox) -> None:
    cpu = box.engine.create_cpu(exit_on_cpuid=False, deprivileged=False)
    try:
        box.load(assemble(f"mov eax, [{DATA}]; hlt"))
        box.write(DATA, 42)
        cpu.state.rip, cpu.state.rsp = CODE, STACK_TOP
        assert cpu.run() == ExitReason.HALT
        assert cpu.state.rax == 42
    finally:
        cpu.close()
