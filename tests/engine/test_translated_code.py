"""Code that is overwritten is never run again: by the vCPU itself, through another address, by the hypervisor, by another vCPU."""

from __future__ import annotations

import threading

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, DATA, NO_EXECUTE, PAGE, PRESENT, USER, WRITE, Sandbox
from pyxen.engine.unicorn_engine import UnicornCpu, UnicornEngine
from tests.engine.assembler import assemble

ALIAS = 0x600000
FRAME = CODE // PAGE


def returns(value: int) -> bytes:
    return assemble(f"mov eax, {value}; syscall")


def test_a_block_that_changes_its_own_next_instruction(box: Sandbox) -> None:
    cpu = box.cpu(assemble("lea rbx, [rip + 1f]; mov byte ptr [rbx + 1], 77; 1: mov eax, 5; syscall"))
    for _ in range(2):
        cpu.state.rip = CODE
        assert cpu.run() == ExitReason.SYSCALL
        assert cpu.state.rax == 77


def test_a_loop_that_changes_itself_each_time(box: Sandbox) -> None:
    cpu = box.cpu(
        assemble(
            "lea rbx, [rip + 1f]; xor edx, edx; mov ecx, 100; 2: inc byte ptr [rbx + 1]; 1: mov eax, 0; add edx, eax; loop 2b; syscall"
        )
    )
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rdx == sum(range(101))


def test_code_changed_by_the_hypervisor(box: Sandbox) -> None:
    cpu = box.cpu(returns(1))
    assert not box.engine.has_translated_code(FRAME)
    cpu.run()
    assert box.engine.has_translated_code(FRAME)
    assert not box.engine.has_translated_code(DATA // PAGE)
    for value in range(2, 10):
        box.run_code(cpu, returns(value))
        assert cpu.state.rax == value
    cpu.close()
    assert not box.engine.has_translated_code(FRAME)


def test_a_frame_whose_code_was_dropped_is_forgotten(box: Sandbox) -> None:
    box.load(returns(2), DATA)
    cpu = box.cpu(returns(1))
    cpu.run()
    cpu.invalidate_frame(FRAME)
    cpu.state.rip = DATA
    cpu.run()
    assert [box.engine.has_translated_code(frame) for frame in (FRAME, DATA // PAGE)] == [False, True]


def test_code_changed_by_the_hypervisor_while_it_runs(box: Sandbox) -> None:
    cpu = box.cpu(assemble("1: inc rcx; jmp 1b; nop; nop"))
    thread = threading.Thread(target=cpu.run)
    thread.start()
    box.write(CODE + 3, 0x050F, 2)  # the jump becomes a system call
    cpu.invalidate_frame(FRAME)
    thread.join(timeout=20)
    assert cpu.state.exit_reason == ExitReason.SYSCALL  # and no kick was needed


def test_code_changed_through_an_alias(box: Sandbox) -> None:
    box.map(ALIAS, CODE, PRESENT | WRITE | USER | NO_EXECUTE)
    box.load(assemble(f"mov rbx, {ALIAS}; mov byte ptr [rbx + 1], cl; syscall", DATA), DATA)
    cpu = box.cpu(returns(1))
    for value in range(10, 20):
        for target in (DATA, CODE):
            cpu.state.rip, cpu.state.rcx = target, value
            assert cpu.run() == ExitReason.SYSCALL
        assert cpu.state.rax == value


def test_an_alias_that_was_written_before_the_code_was_translated(box: Sandbox) -> None:
    box.map(ALIAS, CODE, PRESENT | WRITE | USER | NO_EXECUTE)
    writer = assemble(f"mov rbx, {ALIAS}; mov byte ptr [rbx + 1], cl; mov byte ptr [rbx + 2], 0; syscall", DATA)
    box.load(writer, DATA)
    cpu = box.cpu(returns(1))
    for target, value in ((DATA, 1), (CODE, 0), (DATA, 2), (DATA, 3), (CODE, 0)):
        cpu.state.rip, cpu.state.rcx = target, value
        assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == 3


def test_code_changed_by_a_locked_operation(box: Sandbox) -> None:
    box.map(ALIAS, CODE, PRESENT | WRITE | USER)
    box.load(assemble(f"mov rbx, {ALIAS}; lock inc byte ptr [rbx + 1]; syscall", DATA), DATA)
    cpu = box.cpu(returns(1))
    for target in (CODE, DATA, DATA, CODE):
        cpu.state.rip = target
        assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == 3


def test_code_on_two_pages(box: Sandbox) -> None:
    start = CODE + PAGE - 2
    cpu = box.cpu()
    box.load(returns(1), start)
    for value in (1, 300):
        box.load(returns(value), start)
        cpu.invalidate_frame(FRAME + 1)
        cpu.state.rip = start
        assert cpu.run() == ExitReason.SYSCALL
        assert cpu.state.rax == value


def test_data_beside_code_does_not_disturb_it(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"mov ecx, 100000; 1: inc dword ptr [{CODE + 0x800}]; dec ecx; jnz 1b; syscall"))
    assert cpu.run() == ExitReason.SYSCALL
    assert box.read(CODE + 0x800, 4) == 100000


def test_code_changed_by_another_vcpu(box: Sandbox) -> None:
    box.load(assemble(f"mov rbx, {CODE}; mov byte ptr [rbx + 1], cl; syscall", DATA), DATA)
    reader, writer = box.cpu(returns(1)), box.cpu()
    for value in range(1, 50):
        writer.state.rip, writer.state.rcx = DATA, value
        assert writer.run() == ExitReason.SYSCALL
        reader.state.rip = CODE
        assert reader.run() == ExitReason.SYSCALL
        assert reader.state.rax == value


def test_code_changed_by_another_vcpu_at_the_same_time(box: Sandbox) -> None:
    """One vCPU calls a function over and over; the other changes what it returns, counting up to the end."""
    function = CODE + PAGE
    box.load(assemble("mov eax, 1; ret", function), function)
    caller = box.cpu(assemble(f"mov rbx, {function}; 1: call rbx; cmp eax, 200; jne 1b; syscall"))
    box.load(
        assemble(
            f"""
            mov rbx, {function}; mov cl, 1
        1:  inc cl; mov byte ptr [rbx + 1], cl
            mov edx, 3000
        2:  dec edx; jnz 2b
            cmp cl, 200; jne 1b
            syscall
            """,
            DATA,
        ),
        DATA,
    )
    writer = box.cpu()
    writer.state.rip = DATA
    threads = [threading.Thread(target=cpu.run, daemon=True) for cpu in (caller, writer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    ended = [not thread.is_alive() for thread in threads]
    caller.kick()
    for thread in threads:
        thread.join(timeout=10)
    assert ended == [True, True]
    assert caller.state.exit_reason == ExitReason.SYSCALL


def test_a_full_code_buffer_is_emptied(box: Sandbox) -> None:
    """More code than fits: a long slide of blocks in many frames, run several times under one small buffer."""
    assert isinstance(box.engine, UnicornEngine)
    block = assemble("inc rcx; lea rdx, [rdx + rcx]; xor rsi, rdx; jmp 1f; 1:")
    first, pages = 0x200000, 256
    code = block * (pages * PAGE // len(block) - 1) + assemble("syscall")
    box.load(code, first)
    for page in range(pages):
        box.map(first + page * PAGE, first + page * PAGE, PRESENT | USER)
    cpu = UnicornCpu(box.engine._machine, 2, 1 << 20)
    try:
        model = box.cpu()
        for name in ("cr0", "cr3", "rsp", "dirty"):
            setattr(cpu.state, name, getattr(model.state, name))
        blocks = pages * PAGE // len(block) - 1
        box.load(returns(1))
        cpu.state.rip = CODE
        cpu.run()
        assert box.engine.has_translated_code(FRAME)
        for turn in range(1, 4):
            cpu.state.rip = first
            assert cpu.run() == ExitReason.SYSCALL
            assert cpu.state.rcx == turn * blocks
        assert not box.engine.has_translated_code(FRAME)  # it went with the rest
    finally:
        cpu.close()


@pytest.mark.parametrize(
    "source",
    [
        "mov fs, eax",
        "in al, dx",
        "lar ecx, eax",
        "mov ecx, fs",
        "fldz; fstp st(0)",
        "bsf rcx, rax",
        "lock cmpxchg [rbx], ecx",
        "rdfsbase rcx",
        "pause",
    ],
)
def test_long_blocks_of_greedy_instructions(box: Sandbox, source: str) -> None:
    """Instructions that take a temporary of the translator's each: it has 512, and must end the block before they are gone."""
    cpu = box.cpu(assemble(f".rept 700\n{source}\n.endr\nsyscall"), cpl=3)
    cpu.state.rbx, cpu.state.rflags, cpu.state.cr4 = DATA, cpu.state.rflags | 3 << 12, cpu.state.cr4 | 1 << 16
    reason = cpu.run()
    while reason == ExitReason.IO:
        cpu.state.rip += cpu.state.instruction_length
        reason = cpu.run()
    assert reason == ExitReason.SYSCALL
