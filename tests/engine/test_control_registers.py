"""What a privileged guest may load into its control registers (Intel SDM volume 3, section 2.5), and the task priority in CR8."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import CS, Dirty, ExitReason
from pyxen.engine.sandbox import CODE, Sandbox
from tests.engine.assembler import assemble
from tests.engine.test_privileged_guests import ring0

GP_HANDLER = {13: "pop rbx; mov rcx, [rsp]; vmcall"}
CR0_PE, CR0_NW, CR0_CD, CR0_PG = 1, 1 << 29, 1 << 30, 1 << 31
CR4_PAE, CR4_VMXE, CR4_UMIP, CR4_PCIDE, CR4_OSXSAVE, CR4_PKE = 1 << 5, 1 << 13, 1 << 11, 1 << 17, 1 << 18, 1 << 22


@pytest.mark.parametrize(
    ("register", "change", "faults"),
    [
        ("cr0", "xor rax, 4", False),
        ("cr0", f"or rax, {CR0_CD}", False),
        ("cr0", f"or rax, {CR0_NW}", True),
        ("cr0", f"or rax, {CR0_NW | CR0_CD}", False),
        ("cr0", "and rax, -2", True),  # PG without PE
        ("cr0", "btr rax, 31", True),  # no paging in 64-bit code
        ("cr0", "bts rax, 32", True),
        ("cr3", "bts rax, 3", False),
        ("cr3", "bts rax, 52", True),
        ("cr3", "bts rax, 63", True),
        ("cr4", "bts rax, 7", False),
        ("cr4", "btr rax, 5", True),  # PAE is needed
        *[("cr4", f"or rax, {bit}", True) for bit in (CR4_VMXE, CR4_UMIP, CR4_PCIDE, CR4_OSXSAVE, CR4_PKE, 1 << 15, 1 << 30)],
        ("cr4", "bts rax, 33", True),
        ("cr8", "mov eax, 15", False),
        ("cr8", "mov eax, 16", True),
    ],
)
def test_what_may_be_loaded(box: Sandbox, register: str, change: str, faults: bool) -> None:
    head = f"mov rax, {register}; {change}"
    cpu = ring0(box, f"{head}; mov {register}, rax; mov rdx, {register}; vmcall", GP_HANDLER)
    before = getattr(cpu.state, register)
    assert cpu.run() == ExitReason.HYPERCALL
    state = cpu.state
    if faults:
        assert (state.rbx, state.rcx) == (0, CODE + len(assemble(head)))
        assert getattr(state, register) & ~0x10 == before & ~0x10  # but for CR0.ET
    else:
        assert state.rdx == state.rax == getattr(state, register)


def test_long_mode_is_not_entered_without_pae_or_from_long_code(box: Sandbox) -> None:
    for pae, attributes in ((0, 0xC09B00), (CR4_PAE, 0xE09B00)):
        cpu = ring0(box, "nop", GP_HANDLER)
        box.load(assemble(".code32\nmov eax, cr0; bts eax, 31; mov cr0, eax; hlt"))
        state = cpu.state
        state.cr0 &= ~CR0_PG
        state.cr4 = state.cr4 & ~CR4_PAE | pae
        state.efer = 0x100  # LME, not LMA
        state.idt.limit = 0  # so that a fault shows as what follows it
        state.segs[CS].attributes = attributes
        state.dirty |= Dirty.ALL
        assert cpu.run() == ExitReason.TRIPLE_FAULT


def test_cr8_is_the_blocks(box: Sandbox) -> None:
    cpu = ring0(box, "mov rbx, cr8; mov eax, 9; mov cr8, rax; mov eax, 9; mov cr8, rax; mov eax, 2; mov cr8, rax; vmcall")
    cpu.state.cr8 = 5
    assert cpu.run() == ExitReason.KICK  # when it falls, and not before
    assert (cpu.state.rbx, cpu.state.cr8, cpu.state.rax) == (5, 2, 2)
    assert cpu.run() == ExitReason.HYPERCALL


@pytest.mark.parametrize("register", ["dr6", "dr7"])
def test_the_upper_halves_of_dr6_and_dr7_are_reserved(box: Sandbox, register: str) -> None:
    head = f"mov rax, {register}; bts rax, 32"
    cpu = ring0(box, f"{head}; mov {register}, rax; vmcall", GP_HANDLER)
    assert cpu.run() == ExitReason.HYPERCALL
    assert (cpu.state.rbx, cpu.state.rcx) == (0, CODE + len(assemble(head)))
