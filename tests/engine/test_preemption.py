"""Kicks, and atomic operations between vCPUs in several threads and the hypervisor."""

from __future__ import annotations

import threading
import time

import pytest

from pyxen.engine.interface import ExitReason, VirtualCpu
from pyxen.engine.sandbox import CODE, DATA, DIRTY, PAGE, PRESENT, STACK_TOP, USER, WRITE, Sandbox
from tests.engine.assembler import assemble

COUNTING_LOOP = f"""
    mov rbx, {DATA}
1:  lock inc qword ptr [rbx]
    inc qword ptr [rbx + 8]
    add qword ptr [rbx + 16], 1
    push rax
    pop rdx
    mov rdx, [rbx + 24]
    inc rdx
    mov [rbx + 24], rdx
    inc rcx
    jmp 1b
"""


class Kicker:
    """Kicks a vCPU from another thread until told to stop."""

    def __init__(self, cpu: VirtualCpu, pause: float) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._kick, args=(cpu, pause), daemon=True)

    def _kick(self, cpu: VirtualCpu, pause: float) -> None:
        while not self._stop.is_set():
            cpu.kick()
            time.sleep(pause)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def test_kicks_never_repeat_or_lose_a_memory_operation(box: Sandbox) -> None:
    cpu = box.cpu(assemble(COUNTING_LOOP))
    with Kicker(cpu, 0.00005):
        for _ in range(700):
            assert cpu.run() == ExitReason.KICK
            counts = {box.read(DATA + offset) for offset in (0, 8, 16, 24)}
            assert counts == {cpu.state.rcx}
            assert cpu.state.rsp == STACK_TOP


def test_every_kick_is_delivered_once(box: Sandbox) -> None:
    cpu = box.cpu(assemble("1: jmp 1b"))
    for _ in range(100):
        cpu.kick()
        assert cpu.run() == ExitReason.KICK
    cpu.kick()
    cpu.kick()
    assert cpu.run() == ExitReason.KICK
    cpu.state.rip = CODE
    box.run_code(cpu, b"\x0f\x05")
    assert cpu.state.exit_reason == ExitReason.SYSCALL  # two kicks before one run are one


def test_a_kick_beside_another_exit_is_not_lost(box: Sandbox) -> None:
    cpu = box.cpu(assemble("syscall; 1: jmp 1b"))
    cpu.kick()
    reasons = [cpu.run()]
    if reasons[0] == ExitReason.SYSCALL:
        reasons.append(cpu.run())
    assert ExitReason.KICK in reasons


def test_kicks_while_every_block_leaves_lose_nothing(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"1: lock inc qword ptr [{DATA}]; syscall; jmp 1b"))
    calls = 0
    with Kicker(cpu, 0):
        for _ in range(20000):
            calls += cpu.run() == ExitReason.SYSCALL
    assert 0 <= box.read(DATA) - calls <= 1  # the last may have been counted and not yet left


def test_a_run_of_the_guest_releases_the_interpreter(box: Sandbox) -> None:
    cpu = box.cpu(assemble("1: jmp 1b"))
    timer = threading.Timer(0.02, cpu.kick)
    timer.start()
    assert cpu.run() == ExitReason.KICK
    timer.join()


def _run_in_threads(cpus: list[VirtualCpu]) -> list[int]:
    reasons = [-1] * len(cpus)

    def run(number: int) -> None:
        reasons[number] = cpus[number].run()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return reasons


@pytest.mark.parametrize("operation", ["lock inc qword ptr [rbx]", "lock xadd [rbx], rdx", "lock add dword ptr [rbx + 2], 0x10000"])
def test_locked_operations_of_two_vcpus_lose_nothing(box: Sandbox, operation: str) -> None:
    turns = 2_000_000
    code = assemble(f"mov rbx, {DATA}; mov rcx, {turns}; mov edx, 1; 1: {operation}; mov edx, 1; dec rcx; jnz 1b; syscall")
    cpus = [box.cpu(code), box.cpu(code)]
    assert _run_in_threads(cpus) == [ExitReason.SYSCALL] * 2
    total = box.read(DATA) if "0x10000" not in operation else box.read(DATA + 2, 4) >> 16 | box.read(DATA + 6, 2) << 16
    assert total % (1 << 16 if "0x10000" in operation else 1 << 64) == 2 * turns % (1 << 16 if "0x10000" in operation else 1 << 64)


@pytest.mark.parametrize(
    ("size", "operation"),
    [
        *[(size, f"lock inc {size} ptr [rbx]") for size in ("byte", "word", "dword")],
        ("qword", "lock sub qword ptr [rbx], -1"),
        ("qword", "clc; lock adc qword ptr [rbx], 1"),
        ("qword", "stc; lock adc qword ptr [rbx], 0"),
        ("qword", "stc; lock sbb qword ptr [rbx], -2"),
        ("dword", "mov eax, [rbx]; 2: lea edx, [rax + 1]; lock cmpxchg [rbx], edx; jnz 2b"),
    ],
)
def test_locked_counting_of_two_vcpus_loses_nothing(box: Sandbox, size: str, operation: str) -> None:
    turns = 500_000
    code = assemble(f"mov rbx, {DATA}; mov rsi, {turns}; 1: {operation}; dec rsi; jnz 1b; syscall")
    assert _run_in_threads([box.cpu(code), box.cpu(code)]) == [ExitReason.SYSCALL] * 2
    octets = {"byte": 1, "word": 2, "dword": 4, "qword": 8}[size]
    assert box.read(DATA, octets) == 2 * turns % (1 << 8 * octets)
    assert box.read(DATA + octets) == 0


@pytest.mark.parametrize(
    ("set_bit", "clear_bit"),
    [
        ("lock or dword ptr [rbx], {mask}", "lock and dword ptr [rbx], ~{mask}"),
        ("lock bts dword ptr [rbx], {bit}", "lock btr dword ptr [rbx], {bit}"),
        ("lock btc dword ptr [rbx], {bit}", "lock xor dword ptr [rbx], {mask}"),
    ],
)
def test_locked_bit_operations_of_two_vcpus_leave_each_others_bits_alone(box: Sandbox, set_bit: str, clear_bit: str) -> None:
    def code(bit: int) -> bytes:
        names = {"bit": bit, "mask": 1 << bit}
        return assemble(
            f"""
            mov rbx, {DATA}; mov esi, 500000; xor r8d, r8d
        1:  {set_bit.format(**names)}
            test dword ptr [rbx], {1 << bit}; jnz 2f
            inc r8
        2:  {clear_bit.format(**names)}
            test dword ptr [rbx], {1 << bit}; jz 3f
            inc r8
        3:  dec esi; jnz 1b
            syscall
            """,
            CODE + bit * PAGE,
        )

    cpus = []
    for bit in (0, 5):
        box.load(code(bit), CODE + bit * PAGE)
        cpu = box.cpu()
        cpu.state.rip = CODE + bit * PAGE
        cpus.append(cpu)
    assert _run_in_threads(cpus) == [ExitReason.SYSCALL] * 2
    assert [cpu.state.r8 for cpu in cpus] == [0, 0]


def test_cmpxchg8b_of_two_vcpus_loses_nothing(box: Sandbox) -> None:
    turns = 200_000
    code = assemble(
        f"""
        mov rsi, {DATA}; mov r8, {turns}
    1:  mov eax, [rsi]; mov edx, [rsi + 4]
    2:  mov ebx, eax; inc ebx; mov ecx, edx; add ecx, 3
        lock cmpxchg8b [rsi]
        jnz 2b
        dec r8; jnz 1b
        syscall
        """
    )
    assert _run_in_threads([box.cpu(code), box.cpu(code)]) == [ExitReason.SYSCALL] * 2
    assert (box.read(DATA, 4), box.read(DATA + 4, 4)) == (2 * turns, 6 * turns)


def test_cmpxchg16b_of_two_vcpus_loses_nothing(box: Sandbox) -> None:
    turns = 200_000
    code = assemble(
        f"""
        mov rsi, {DATA}; mov r8, {turns}
    1:  mov rax, [rsi]; mov rdx, [rsi + 8]
    2:  mov rbx, rax; inc rbx; mov rcx, rdx; add rcx, 3
        lock cmpxchg16b [rsi]
        jnz 2b
        dec r8; jnz 1b
        syscall
        """
    )
    assert _run_in_threads([box.cpu(code), box.cpu(code)]) == [ExitReason.SYSCALL] * 2
    assert (box.read(DATA), box.read(DATA + 8)) == (2 * turns, 6 * turns)


def test_a_locked_operation_across_two_pages_is_executed(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"mov rbx, {DATA + PAGE - 4}; lock inc qword ptr [rbx]; lock add qword ptr [rbx], 0x7fffffff; syscall"))
    box.write(DATA + PAGE - 4, (1 << 32) - 1)
    assert cpu.run() == ExitReason.SYSCALL
    assert box.read(DATA + PAGE - 4) == (1 << 32) + 0x7FFFFFFF


@pytest.mark.parametrize("neighbours", [True, False], ids=["neighbours", "apart"])
@pytest.mark.parametrize("octets", [1, 4, 7])
def test_locked_operations_across_two_pages_lose_nothing(box: Sandbox, octets: int, neighbours: bool) -> None:
    """The pages' frames are neighbours in memory, or are not; ``octets`` of the operand are in the first."""
    turns, window = 100_000, 0x600000
    for number in range(2):
        box.map(window + number * PAGE, DATA + (number if neighbours else 2 - 2 * number) * PAGE, PRESENT | WRITE | USER)
    code = assemble(f"mov rbx, {window + PAGE - octets}; mov rcx, {turns}; 1: lock inc qword ptr [rbx]; dec rcx; jnz 1b; syscall")
    cpus = [box.cpu(code), box.cpu(code)]
    assert _run_in_threads(cpus) == [ExitReason.SYSCALL] * 2
    cpus[0].state.rip, cpus[0].state.rcx = CODE, 1
    box.load(assemble(f"mov rbx, {window + PAGE - octets}; mov rax, [rbx]; syscall"))
    cpus[0].invalidate_frame(CODE // PAGE)
    assert cpus[0].run() == ExitReason.SYSCALL
    assert cpus[0].state.rax == 2 * turns


def test_a_locked_operation_across_a_page_that_is_absent_changes_nothing(box: Sandbox) -> None:
    window = 0x600000
    box.map(window, DATA, PRESENT | WRITE | USER)
    cpu = box.cpu(assemble(f"mov rbx, {window + PAGE - 4}; lock inc qword ptr [rbx]; syscall"))
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.cr2) == (14, window + PAGE)
    assert box.read(DATA + PAGE - 4, 4) == 0


def test_atomic_operations_of_the_hypervisor(box: Sandbox) -> None:
    """While a vCPU adds to one half of a word with locked operations, the hypervisor sets bits in the other."""
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; 1: lock add qword ptr [rbx], 1; inc rcx; jmp 1b"))
    thread = threading.Thread(target=cpu.run)
    thread.start()
    try:
        for bit in range(40, 64):
            for _ in range(300):
                old = box.engine.set_bits(DATA, 1 << bit)
                assert all(old >> lower & 1 for lower in range(40, bit))
    finally:
        cpu.kick()
        thread.join()
    assert box.read(DATA) == cpu.state.rcx | 0xFFFFFF << 40
    assert not box.engine.compare_exchange(DATA + 8, 1, 2)
    assert box.engine.compare_exchange(DATA + 8, 0, 2)
    assert box.read(DATA + 8) == 2
    assert box.engine.clear_bits(DATA, 0xF << 40) == cpu.state.rcx | 0xFFFFFF << 40
    assert box.read(DATA) == cpu.state.rcx | 0xFFFFF0 << 40


#: Ways of a guest to take bit 7 of the word at RBX; RCX counts how often it was there. One block each: a kick comes before or after.
TAKING = {
    "xchg, 8 bits": "xor eax, eax; xchg al, byte ptr [rbx]; shr eax, 7; and eax, 1; add rcx, rax",
    "xchg, 16 bits": "xor eax, eax; xchg ax, word ptr [rbx]; shr eax, 7; and eax, 1; add rcx, rax",
    "xchg, 32 bits": "xor eax, eax; xchg eax, dword ptr [rbx]; shr eax, 7; and eax, 1; add rcx, rax",
    "xchg, 64 bits": "xor eax, eax; xchg rax, qword ptr [rbx]; shr eax, 7; and eax, 1; add rcx, rax",
    "lock btr": "lock btr dword ptr [rbx], 7; adc rcx, 0",
}


@pytest.mark.parametrize("taking", TAKING)
def test_a_bit_that_is_set_while_the_guest_takes_it_is_not_lost(box: Sandbox, taking: str) -> None:
    """As event channels do with the bits of ready queues. XCHG needs no prefix to be locked."""
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; xor ecx, ecx; 1: {TAKING[taking]}; jmp 1b"))
    thread = threading.Thread(target=cpu.run)
    thread.start()
    given = 0
    for _ in range(200_000):
        given += not box.engine.set_bits(DATA, 1 << 7) & 1 << 7
    cpu.kick()
    thread.join()
    assert given == cpu.state.rcx + (box.read(DATA) >> 7 & 1)


def test_half_of_a_word_is_replaced_whatever_happens_to_the_other(box: Sandbox) -> None:
    """The vCPU never stops changing the low half of a word; that must not make a replacement of the high half fail."""
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; 1: lock add dword ptr [rbx], 1; inc ecx; jmp 1b"))
    thread = threading.Thread(target=cpu.run)
    thread.start()
    try:
        for value in range(3000):
            assert box.engine.compare_exchange32(DATA + 4, value, value + 1) == value
        assert box.engine.compare_exchange32(DATA + 4, 7, 8) == 3000
    finally:
        cpu.kick()
        thread.join()
    assert box.read(DATA) == (cpu.state.rcx & 0xFFFFFFFF) | 3000 << 32


@pytest.mark.parametrize("address", [-8, 3, 1 << 40])
def test_atomic_operations_outside_memory_are_refused(box: Sandbox, address: int) -> None:
    with pytest.raises(ValueError, match="64-bit word"):
        box.engine.set_bits(address, 1)
    with pytest.raises(ValueError, match="64-bit word"):
        box.engine.compare_exchange(address, 0, 1)
    with pytest.raises(ValueError, match="64-bit word"):
        box.engine.clear_bits(address, 1)
    with pytest.raises(ValueError, match="64-bit word"):
        box.engine.compare_exchange32(address, 0, 1)


def test_dirty_bits_never_undo_a_change_of_the_entry(box: Sandbox) -> None:
    """One vCPU sets A and D in an entry over and over; another changes its frame: what it wrote last must stay."""
    hole, window = 0x500000, 0x600000
    entry = box.map(hole, DATA, PRESENT | WRITE)
    box.map(window, entry & ~0xFFF, PRESENT | WRITE)
    code = assemble(f"mov rbx, {hole}; 1: invlpg [rbx]; mov [rbx], rax; jmp 1b")
    toucher = box.cpu(code, cpl=0, deprivileged=False)
    changes = assemble(
        f"""
        mov rbx, {window + (entry & 0xFFF)}; mov ecx, 800000; xor r8d, r8d
        mov rdx, {DATA | PRESENT | WRITE}
    1:  xor rdx, {PAGE}
        mov [rbx], rdx
        mov esi, 40
    2:  mov rax, [rbx]; and rax, -0x61; cmp rax, rdx; je 3f
        inc r8
    3:  dec esi; jnz 2b
        dec ecx; jnz 1b
        syscall
        """,
        CODE + PAGE,
    )
    box.load(changes, CODE + PAGE)
    changer = box.cpu()
    changer.state.rip = CODE + PAGE
    thread = threading.Thread(target=toucher.run)
    thread.start()
    try:
        while not box.read(entry) & DIRTY:
            time.sleep(0.001)
        assert changer.run() == ExitReason.SYSCALL
    finally:
        toucher.kick()
        thread.join()
    assert changer.state.r8 == 0
    assert toucher.state.exit_reason == ExitReason.KICK


def test_no_store_without_its_dirty_bit(box: Sandbox) -> None:
    """One vCPU walks to a page and writes, over and over; another maps the page for a moment. If it was written then, the entry that the
    other took out says so: the walk must not go on with an entry that has just been exchanged."""
    hole, window, counter = 0x500000, 0x600000, DATA + 4 * PAGE
    entry = box.map(hole, DATA + PAGE, PRESENT | WRITE)
    box.map(window, entry & ~0xFFF, PRESENT | WRITE)
    toucher = box.cpu(
        assemble(f"mov rbx, {hole}; mov rcx, {counter}; 1: invlpg [rbx]; inc rax; mov [rbx], rax; mov [rcx], rax; jmp 1b"),
        cpl=0,
        deprivileged=False,
    )
    exchange = assemble(
        f"""
        mov rbx, {window + (entry & 0xFFF)}; mov r12, {counter}; mov r13, {DATA}; mov ecx, 20000; xor r8d, r8d; xor r9d, r9d
    1:  mov r10, [r13]
        mov rdx, {DATA | PRESENT | WRITE}
        xchg [rbx], rdx
        mov esi, ecx; and esi, 31
    2:  dec esi; jns 2b
        mov rdx, {DATA + PAGE | PRESENT | WRITE | DIRTY}
        xchg [rbx], rdx
        mov r11, [r12]; add r11, 2
    3:  pause; cmp [r12], r11; jb 3b
        cmp [r13], r10; je 4f
        inc r9
        test dl, {DIRTY}; jnz 4f
        inc r8
    4:  dec ecx; jnz 1b
        syscall
        """,
        CODE + PAGE,
    )
    box.load(exchange, CODE + PAGE)
    exchanger = box.cpu()
    exchanger.state.rip = CODE + PAGE
    thread = threading.Thread(target=toucher.run)
    thread.start()
    try:
        assert exchanger.run() == ExitReason.SYSCALL
    finally:
        toucher.kick()
        thread.join()
    assert exchanger.state.r9 > 0
    assert exchanger.state.r8 == 0
