"""What is checked of a memory access: segment limits and types in compatibility mode, and alignment (Intel SDM volume 3, 5.3-5.5, 6.15)."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import CS, DS, ES, FS, GS, SS, Dirty, ExitReason, VirtualCpu
from pyxen.engine.sandbox import CODE, DATA, STACK_TOP, Sandbox
from tests.engine.assembler import assemble

STACK_FAULT, GP, PF, AC = 12, 13, 14, 17
CODE32, CODE16, DATA32, READ_ONLY, EXPAND_DOWN, EXPAND_DOWN_16, EXECUTE_ONLY = (
    0xC0FB00,
    0x80FB00,
    0xC0F300,
    0xC0F100,
    0xC0F700,
    0x80F700,
    0xC0F900,
)
FLAT = 0xFFFFFFFF
FLAG_AC, CR0_AM, CR0_PAGING = 1 << 18, 1 << 18, 1 << 31


def cpu32(box: Sandbox, source: str, cpl: int = 3) -> VirtualCpu:
    cpu = box.cpu(assemble(f".code32\n{source}\nint 0x80"), cpl=cpl)
    segment(cpu, CS, attributes=CODE32)
    for register in (DS, ES, SS, FS, GS):
        segment(cpu, register)
    cpu.state.rbx = DATA
    return cpu


def segment(cpu: VirtualCpu, register: int, *, base: int = 0, limit: int = FLAT, attributes: int = DATA32) -> None:
    segs = cpu.state.segs
    segs[register].base, segs[register].limit, segs[register].attributes = base, limit, attributes
    cpu.state.dirty |= Dirty.SEGMENTS


def outcome(cpu: VirtualCpu) -> tuple[int, int] | None:
    """(vector, error code), or None when the code came to its end."""
    reason = cpu.run()
    if reason == ExitReason.SOFTWARE_INTERRUPT:
        return None
    assert reason == ExitReason.EXCEPTION
    return cpu.state.vector, cpu.state.error_code


@pytest.mark.parametrize(
    ("source", "octets"),
    [
        ("mov al, [ebx]", 1),
        ("mov [ebx], ax", 2),
        ("mov eax, [ebx]", 4),
        ("lock inc dword ptr [ebx]", 4),
        ("xchg [ebx], eax", 4),
        ("lock cmpxchg [ebx], ecx", 4),
        ("movsd", 4),
        ("stosw", 2),
        ("fld qword ptr [ebx]", 8),
        ("movups xmm0, [ebx]", 16),
        ("add dword ptr [ebx], 5", 4),
        ("push dword ptr [ebx]", 4),
        ("fld tbyte ptr [ebx]", 10),
        ("fstp tbyte ptr [ebx]", 10),
        ("fbld tbyte ptr [ebx]", 10),
        ("fbstp tbyte ptr [ebx]", 10),
        ("fnstenv [ebx]", 28),
        ("fldenv [ebx]", 28),
        (".byte 0x66; fnstenv [ebx]", 14),
        ("fnsave [ebx]", 108),
        ("frstor [ebx]", 108),
        ("fxsave [ebx]", 512),
        ("fxrstor [ebx]", 512),
    ],
)
@pytest.mark.parametrize("cpl", [1, 3])
def test_limit(box: Sandbox, source: str, octets: int, cpl: int) -> None:
    """The last octet may lie at the limit, and no further."""
    for short in (0, 1):
        cpu = cpu32(box, source, cpl)
        cpu.state.rsi = cpu.state.rdi = DATA
        segment(cpu, DS, limit=DATA + octets - 1 - short)
        segment(cpu, ES, limit=DATA + octets - 1 - short)
        assert outcome(cpu) == ((GP, 0) if short else None)
        assert short == 0 or cpu.state.rip == CODE


def test_limit_of_the_stack(box: Sandbox) -> None:
    for source in ("push eax", "mov eax, [esp - 4]", "mov [ebp], eax", "call 1f; 1:"):
        cpu = cpu32(box, source)
        cpu.state.rsp, cpu.state.rbp = STACK_TOP, STACK_TOP - 4
        segment(cpu, SS, limit=STACK_TOP - 2)
        assert outcome(cpu) == (STACK_FAULT, 0)
        assert cpu.state.rsp == STACK_TOP


def test_base_and_limit_together(box: Sandbox) -> None:
    cpu = cpu32(box, "mov eax, gs:[8]; mov ecx, gs:[9]")
    box.write(DATA + 8, 0x1234, 4)
    segment(cpu, GS, base=DATA, limit=11)
    assert outcome(cpu) == (GP, 0)
    assert cpu.state.rax == 0x1234


@pytest.mark.parametrize(
    ("attributes", "limit", "offset", "faults"),
    [
        (EXPAND_DOWN, DATA - 1, DATA, False),
        (EXPAND_DOWN, DATA, DATA, True),
        (EXPAND_DOWN, DATA - 1, DATA - 2, True),
        (EXPAND_DOWN_16, 0x1000, 0xFFFC, False),
        (EXPAND_DOWN_16, 0x1000, 0xFFFD, True),
    ],
)
def test_expand_down(box: Sandbox, attributes: int, limit: int, offset: int, *, faults: bool) -> None:
    cpu = cpu32(box, "mov eax, [ebx]")
    cpu.state.rbx = offset
    segment(cpu, DS, base=DATA if offset < 0x10000 else 0, limit=limit, attributes=attributes)
    assert outcome(cpu) == ((GP, 0) if faults else None)


@pytest.mark.parametrize(
    ("source", "register", "attributes", "fault"),
    [
        ("mov eax, [ebx]", DS, READ_ONLY, None),
        ("mov [ebx], eax", DS, READ_ONLY, (GP, 0)),
        ("inc dword ptr [ebx]", DS, READ_ONLY, (GP, 0)),
        ("lock inc dword ptr [ebx]", DS, READ_ONLY, (GP, 0)),
        ("mov eax, cs:[ebx]", CS, CODE32, None),
        ("mov cs:[ebx], eax", CS, CODE32, (GP, 0)),
        ("mov eax, cs:[ebx]", CS, EXECUTE_ONLY, (GP, 0)),
        ("nop", CS, EXECUTE_ONLY, None),
        ("mov eax, [ebx]", DS, 0, (GP, 0)),
        ("mov eax, fs:[ebx]", FS, 0, (GP, 0)),
        ("mov eax, [ebx]", FS, 0, None),
        ("mov [ebx], eax", ES, READ_ONLY, None),
        ("fnstenv [ebx]", DS, 0, (GP, 0)),
        ("lea eax, fs:[ebx]", FS, 0, None),
    ],
)
def test_types(box: Sandbox, source: str, register: int, attributes: int, fault: tuple[int, int] | None) -> None:
    cpu = cpu32(box, source)
    segment(cpu, register, attributes=attributes)
    assert outcome(cpu) == fault


def test_limit_of_code(box: Sandbox) -> None:
    """An instruction that reaches beyond the limit of CS faults at itself; the limit may change between two runs of the same code."""
    cpu = cpu32(box, "nop; mov eax, 5; mov ecx, 6")
    for limit, wanted, rip in (
        (CODE + 10, (GP, 0), CODE + 11),
        (FLAT, None, CODE + 13),
        (CODE + 5, (GP, 0), CODE + 6),
        (CODE, (GP, 0), CODE + 1),
    ):
        cpu.state.rip = CODE
        segment(cpu, CS, limit=limit, attributes=CODE32)
        assert outcome(cpu) == wanted
        assert cpu.state.rip == rip


def test_a_new_segment_counts_at_once(box: Sandbox) -> None:
    """Loads of FS and GS, too: the block that loads them goes on under other rules."""
    gdt = DATA + 0x1000
    box.write(gdt + 8, 0x0040F3000000000F)  # 16 octets at 0
    for register in ("ds", "es", "fs", "gs"):
        cpu = cpu32(box, f"mov eax, 0x0b; mov {register}, eax; mov edx, {register}:[ebx]")
        cpu.state.gdt.base, cpu.state.gdt.limit = gdt, 15
        cpu.state.dirty = Dirty.ALL
        assert outcome(cpu) == (GP, 0)
        assert cpu.state.rip > CODE + 5


def test_64_bit_code_has_no_limits(box: Sandbox) -> None:
    cpu = box.cpu(assemble("mov eax, [rbx]; mov eax, fs:[0]; syscall"))
    cpu.state.rbx = DATA
    for register in (DS, ES, SS):
        segment(cpu, register, limit=0, attributes=0)
    segment(cpu, FS, base=DATA, limit=0, attributes=0)
    assert cpu.run() == ExitReason.SYSCALL


# ------------------------------------------------------------------ alignment
def aligned_cpu(box: Sandbox, source: str, cpl: int = 3) -> VirtualCpu:
    cpu = box.cpu(assemble(f"{source}; syscall"), cpl=cpl)
    cpu.state.cr0 |= CR0_AM
    cpu.state.rflags |= FLAG_AC
    cpu.state.dirty |= Dirty.CONTROL
    cpu.state.rbx = cpu.state.rsi = cpu.state.rdi = DATA + 1
    return cpu


ACCESSES = [
    "mov ax, [rbx]",
    "mov [rbx], eax",
    "mov rax, [rbx + 3]",
    "lock inc dword ptr [rbx]",
    "xchg [rbx], rax",
    "inc word ptr [rbx]",
    "movsq",
]


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize("source", ACCESSES)
def test_misaligned(box: Sandbox, source: str, cpl: int) -> None:
    cpu = aligned_cpu(box, source, cpl)
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.error_code, cpu.state.rip) == (AC, 0, CODE)


@pytest.mark.parametrize("source", ["mov al, [rbx]", "mov ax, [rbx + 1]", "mov rax, [rbx + 7]", "lock inc dword ptr [rbx + 3]", "push rax"])
def test_aligned(box: Sandbox, source: str) -> None:
    assert aligned_cpu(box, source).run() == ExitReason.SYSCALL


@pytest.mark.parametrize("missing", ["AM", "AC"])
def test_both_bits_are_needed(box: Sandbox, missing: str) -> None:
    cpu = aligned_cpu(box, "mov eax, [rbx]")
    if missing == "AM":
        cpu.state.cr0 &= ~CR0_AM
    else:
        cpu.state.rflags &= ~FLAG_AC
    assert cpu.run() == ExitReason.SYSCALL


def test_repeated_strings_are_checked(box: Sandbox) -> None:
    cpu = aligned_cpu(box, "rep movsq")
    cpu.state.rcx = 64
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rcx) == (AC, 64)


def test_a_page_fault_goes_first(box: Sandbox) -> None:
    cpu = aligned_cpu(box, "mov eax, [rbx]")
    cpu.state.rbx = 0x7000_0001
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.cr2) == (PF, 0x7000_0001)


def test_popf_turns_it_on_at_once(box: Sandbox) -> None:
    cpu = aligned_cpu(box, "pushfq; or dword ptr [rsp], 0x40000; popfq; mov eax, [rbx]")
    cpu.state.rflags &= ~FLAG_AC
    assert cpu.run() == ExitReason.EXCEPTION
    assert cpu.state.vector == AC


def test_ring_0_is_not_checked(box: Sandbox) -> None:
    cpu = box.cpu(assemble("mov eax, [rbx]; hlt"), cpl=0, deprivileged=False)
    cpu.state.cr0 |= CR0_AM
    cpu.state.rflags |= FLAG_AC
    cpu.state.dirty |= Dirty.CONTROL
    cpu.state.rbx = DATA + 1
    assert cpu.run() == ExitReason.HALT


@pytest.mark.parametrize(
    ("source", "alignment", "vector"),
    [
        ("fld tbyte ptr [ebx]", 8, AC),
        ("fstp tbyte ptr [ebx]", 8, AC),
        ("fnstenv [ebx]", 4, AC),
        ("fldenv [ebx]", 4, AC),
        (".byte 0x66; fnstenv [ebx]", 2, AC),
        ("fnsave [ebx]", 4, AC),
        ("frstor [ebx]", 4, AC),
        ("fxsave [ebx]", 16, GP),
        ("fxrstor [ebx]", 16, GP),
    ],
)
def test_alignment_of_what_helpers_access(box: Sandbox, source: str, alignment: int, vector: int) -> None:
    for offset in (alignment, alignment // 2):
        cpu = cpu32(box, source)
        cpu.state.rbx = DATA + offset % 16
        cpu.state.cr0 |= CR0_AM | CR0_PAGING
        cpu.state.rflags |= FLAG_AC
        assert outcome(cpu) == (None if offset == alignment else (vector, 0))
