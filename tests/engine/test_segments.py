"""Segment registers that the guest loads itself, compatibility mode, and that no selector gives another privilege."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import CS, DS, ES, FS, GS, SS, Dirty, ExitReason, VirtualCpu
from pyxen.engine.sandbox import CODE, DATA, Sandbox
from tests.engine.assembler import assemble

GDT = DATA
NP, SS_FAULT, GP = 11, 12, 13

CODE64, CODE32, FLAT, BASED, ABSENT, RING0, READ_ONLY, KERNEL_CODE = range(1, 9)
DESCRIPTORS = {
    CODE64: 0x00AFFB000000FFFF,
    CODE32: 0x00CFFB000000FFFF,
    FLAT: 0x00CFF3000000FFFF,
    BASED: 0x12CFF3345678FFFF,
    ABSENT: 0x00CF73000000FFFF,
    RING0: 0x00CF93000000FFFF,
    READ_ONLY: 0x00CFF1000000FFFF,
    KERNEL_CODE: 0x00AF9B000000FFFF,
}


def selector(entry: int, rpl: int = 3) -> int:
    return entry * 8 | rpl


def cpu_with_gdt(box: Sandbox, source: str, cpl: int = 1) -> VirtualCpu:
    for entry, descriptor in DESCRIPTORS.items():
        box.write(GDT + entry * 8, descriptor)
    cpu = box.cpu(assemble(source), cpl=cpl)
    cpu.state.gdt.base, cpu.state.gdt.limit = GDT, 9 * 8 - 1
    return cpu


@pytest.mark.parametrize("cpl", [1, 3])
def test_loaded_segments_come_out(box: Sandbox, cpl: int) -> None:
    cpu = cpu_with_gdt(
        box,
        f"""
        mov eax, {selector(FLAT)}; mov ds, eax; mov ss, eax; nop
        mov eax, {selector(BASED)}; mov es, eax; mov fs, eax
        xor eax, eax; mov gs, eax
        syscall
        """,
        cpl,
    )
    assert cpu.run() == ExitReason.SYSCALL
    segs = cpu.state.segs
    assert [segs[number].selector for number in (DS, SS, ES, FS, GS)] == [selector(FLAT)] * 2 + [selector(BASED)] * 2 + [0]
    assert (segs[FS].base, segs[FS].limit, segs[FS].attributes) == (0x12345678, 0xFFFFFFFF, 0x00C0F300)
    assert (segs[GS].base, segs[GS].attributes) == (0, 0)
    assert cpu.state.cpl == cpl


def test_bases_of_fs_and_gs(box: Sandbox) -> None:
    cpu = box.cpu(assemble("mov rax, fs:[8]; mov rbx, gs:[16]; syscall"))
    cpu.state.segs[FS].base, cpu.state.segs[GS].base = DATA, DATA + 0x1000
    box.write(DATA + 8, 11)
    box.write(DATA + 0x1010, 22)
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rax, cpu.state.rbx) == (11, 22)


def test_wrfsbase_and_wrgsbase_come_out(box: Sandbox) -> None:
    cpu = box.cpu(assemble("movabs rax, 0x123456789ab; wrfsbase rax; inc rax; wrgsbase rax; syscall"), cpl=3)
    cpu.state.cr4 |= 1 << 16
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.segs[FS].base, cpu.state.segs[GS].base) == (0x123456789AB, 0x123456789AC)


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize(
    ("register", "value", "vector", "error"),
    [
        ("ds", selector(ABSENT), NP, ABSENT * 8),
        ("ss", selector(ABSENT), SS_FAULT, ABSENT * 8),
        ("ds", selector(RING0), GP, RING0 * 8),
        ("ss", selector(RING0, 0), GP, RING0 * 8),
        ("ss", selector(FLAT, 0), GP, FLAT * 8),
        ("ss", selector(READ_ONLY), GP, READ_ONLY * 8),
        ("fs", selector(20), GP, 20 * 8),
        ("gs", selector(FLAT) | 4, GP, FLAT * 8 | 4),
        ("ss", 0, GP, 0),
    ],
)
def test_bad_selectors_fault(box: Sandbox, cpl: int, register: str, value: int, vector: int, error: int) -> None:
    cpu = cpu_with_gdt(box, f"mov eax, {value}; mov {register}, eax; syscall", cpl)
    before = cpu.state.segs[DS].selector
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.error_code, cpu.state.rip) == (vector, error, CODE + 5)
    assert cpu.state.segs[DS].selector == before


def test_selectors_hide_the_privilege(box: Sandbox) -> None:
    cpu = box.cpu(assemble("mov eax, cs; mov ebx, ss; syscall"))
    cpu.state.segs[CS].selector, cpu.state.segs[SS].selector = 0xE033, 0xE02B
    cpu.state.dirty = Dirty.ALL
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rax, cpu.state.rbx, cpu.state.cpl) == (0xE033, 0xE02B, 1)


def far_return(target_selector: int, target: str = "1f") -> str:
    return f"push {target_selector}; lea rax, [rip + {target}]; push rax; .byte 0x48; retf"


def test_user_space_enters_compatibility_mode(box: Sandbox) -> None:
    cpu = cpu_with_gdt(box, f"{far_return(selector(CODE32))}; 1: .byte 0x40; mov eax, 5; int 0x80", cpl=3)  # inc eax; ...
    cpu.state.rax = 1
    assert cpu.run() == ExitReason.SOFTWARE_INTERRUPT
    assert (cpu.state.vector, cpu.state.rax, cpu.state.segs[CS].selector) == (0x80, 5, selector(CODE32))
    assert cpu.state.segs[CS].attributes & 0x600000 == 0x400000


@pytest.mark.parametrize("target", [selector(KERNEL_CODE, 0), selector(KERNEL_CODE), selector(RING0, 0)])
def test_user_space_gets_no_other_privilege(box: Sandbox, target: int) -> None:
    cpu = cpu_with_gdt(box, f"{far_return(target)}; 1: hlt", cpl=3)
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.cpl) == (GP, 3)


def test_a_stack_segment_gives_no_other_privilege(box: Sandbox) -> None:
    """Even one whose descriptor says ring 3, loaded by a kernel at CPL 1."""
    cpu = cpu_with_gdt(box, f"mov eax, {selector(FLAT)}; mov ss, eax; nop; syscall")
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.cpl == 1


def test_lsl_as_the_vdso_uses_it(box: Sandbox) -> None:
    cpu = cpu_with_gdt(box, f"mov eax, {selector(FLAT)}; lsl ecx, eax; syscall", cpl=3)
    box.write(GDT + FLAT * 8, 0x0040F50000000007 | 0x1000)
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rcx == 0x1007
