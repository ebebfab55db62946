"""Which instructions leave the vCPU, and where RIP is then."""

from __future__ import annotations

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, Sandbox
from tests.engine.assembler import assemble

UD, NM, GP, DE = 6, 7, 13, 0


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize(
    ("source", "reason", "vector", "length"),
    [
        ("syscall", ExitReason.SYSCALL, None, 2),
        ("sysenter", ExitReason.SYSENTER, None, 2),
        ("int 0x80", ExitReason.SOFTWARE_INTERRUPT, 0x80, 2),
        ("int 14", ExitReason.SOFTWARE_INTERRUPT, 14, 2),
        ("int3", ExitReason.SOFTWARE_INTERRUPT, 3, 1),
        (".byte 0xcd, 3", ExitReason.SOFTWARE_INTERRUPT, 3, 2),
        (".byte 0xf1", ExitReason.SOFTWARE_INTERRUPT, 1, 1),
    ],
)
def test_traps_leave_after_the_instruction(
    box: Sandbox, cpl: int, source: str, reason: ExitReason, vector: int | None, length: int
) -> None:
    cpu = box.cpu(assemble(f"mov ecx, 7; mov r11d, 9; nop; {source}"), cpl=cpl)
    before = len(assemble("mov ecx, 7; mov r11d, 9; nop"))
    assert cpu.run() == reason
    state = cpu.state
    assert (state.exit_reason, state.rip, state.instruction_length) == (reason, CODE + before + length, length)
    assert (state.rcx, state.r11, state.cpl) == (7, 9, cpl)
    if vector is not None:
        assert state.vector == vector


def test_into_leaves_in_32_bit_code(box: Sandbox) -> None:
    code = bytes.fromhex("b07f 0401 ce")  # mov al,0x7f; add al,1; into
    cpu = box.cpu(code, cpl=3)
    cpu.state.segs[1].attributes = 0x00C0FB00  # 32-bit code
    assert cpu.run() == ExitReason.SOFTWARE_INTERRUPT
    assert (cpu.state.vector, cpu.state.rip) == (4, CODE + len(code))


@pytest.mark.parametrize("cpl", [1, 3])
@pytest.mark.parametrize(
    ("source", "vector"),
    [
        ("ud2", UD),
        ("vmcall", UD),
        ("vmmcall", UD),
        ("xgetbv", UD),
        ("xor ecx, ecx; div rcx", DE),
        *[
            (privileged, GP)
            for privileged in (
                "hlt",
                "cli",
                "sti",
                "in al, dx",
                "in eax, 0x10",
                "out dx, al",
                "out 0x10, eax",
                "insb",
                "outsd",
                "rep insb",
                "mov rax, cr0",
                "mov cr3, rax",
                "mov rax, dr7",
                "mov dr0, rax",
                "rdmsr",
                "rdpmc",
                "wrmsr",
                "clts",
                "invlpg [rax]",
                "lgdt [rsp]",
                "lidt [rsp]",
                "lldt ax",
                "ltr ax",
                "swapgs",
                "wbinvd",
                "sysretq",
            )
        ],
    ],
)
def test_faults_leave_at_the_instruction(box: Sandbox, cpl: int, source: str, vector: int) -> None:
    setup = "xor ecx, ecx" if "div" in source else "nop"
    instruction = source.split(";")[-1].strip()
    cpu = box.cpu(assemble(f"{setup}; {instruction}; syscall"), cpl=cpl)
    cpu.state.rsp -= 64
    assert cpu.run() == ExitReason.EXCEPTION
    state = cpu.state
    assert (state.vector, state.error_code, state.rip) == (vector, 0, CODE + len(assemble(setup)))


def test_cpuid_leaves_before_it_is_executed(box: Sandbox) -> None:
    for source, length in (("cpuid", 2), (".byte 0x66; cpuid", 3)):
        cpu = box.cpu(assemble(f"mov eax, 0x40000000; {source}"))
        assert cpu.run() == ExitReason.CPUID
        assert (cpu.state.rip, cpu.state.rax, cpu.state.instruction_length) == (CODE + 5, 0x40000000, length)


def test_cpuid_is_native_unless_asked_for(box: Sandbox) -> None:
    cpu = box.cpu(assemble("mov eax, 1; xor ecx, ecx; cpuid; syscall"), exit_on_cpuid=False)
    assert cpu.run() == ExitReason.SYSCALL
    state = cpu.state
    leaf = box.engine.cpuid(1, 0)
    assert (state.rax & 0xFFFFFFFF, state.rcx & 0xFFFFFFFF, state.rdx & 0xFFFFFFFF) == (leaf[0], leaf[2], leaf[3])


def test_cpuid_has_what_guests_need_and_no_avx(box: Sandbox) -> None:
    _, _, ecx, edx = box.engine.cpuid(1, 0)
    sse3, cx16, sse41, sse42, popcnt, xsave, avx = (ecx >> bit & 1 for bit in (0, 13, 19, 20, 23, 26, 28))
    assert (sse3, cx16, sse41, sse42, popcnt, xsave, avx) == (1, 1, 1, 1, 1, 0, 0)
    assert edx >> 26 & 1  # SSE2
    assert not box.engine.cpuid(7, 0)[1] & (1 << 9)  # ERMS
    assert box.engine.cpuid(0x80000001, 0)[3] & (1 << 20)  # NX


@pytest.mark.parametrize("source", ["iretq", "iretd", "lretq", "lret 8", "jmp fword ptr [rsp]", "call fword ptr [rsp]"])
def test_far_transfers_of_a_deprivileged_kernel_leave_before_any_effect(box: Sandbox, source: str) -> None:
    cpu = box.cpu(assemble(f"nop; {source}"))
    cpu.state.rsp -= 64
    box.write(cpu.state.rsp + 8, 0x10)  # some other code segment
    rsp = cpu.state.rsp
    assert cpu.run() == ExitReason.FAR_TRANSFER
    assert (cpu.state.rip, cpu.state.rsp) == (CODE + 1, rsp)


@pytest.mark.parametrize(
    ("source", "reason", "offset", "qualification"),
    [
        ("hlt", ExitReason.HALT, 1, None),
        ("mov ecx, 0x10; rdmsr", ExitReason.RDMSR, 5, 0x10),
        ("mov ecx, 0x10; .byte 0x66; rdmsr", ExitReason.RDMSR, 5, 0x10),
        ("mov ecx, 0xc0000080; wrmsr", ExitReason.WRMSR, 5, 0xC0000080),
        ("mov edx, 0x3f8; in al, dx", ExitReason.IO, 5, 0x3F8 | 0x11 << 16),
        ("mov edx, 0x3f8; out dx, ax", ExitReason.IO, 5, 0x3F8 | 0x20 << 16),
        ("mov edx, 0x3f8; out dx, eax", ExitReason.IO, 5, 0x3F8 | 0x40 << 16),
        ("mov edx, 0x1f0; rep insw", ExitReason.IO, 5, 0x1F0 | 0x2D << 16),
        ("mov edx, 0x3f8; outsb", ExitReason.IO, 5, 0x3F8 | 0x14 << 16),
    ],
)
def test_privileged_instructions_leave_at_cpl_0(
    box: Sandbox, source: str, reason: ExitReason, offset: int, qualification: int | None
) -> None:
    cpu = box.cpu(assemble(source), cpl=0, deprivileged=False)
    assert cpu.run() == reason
    assert cpu.state.rip == CODE + offset
    assert cpu.state.instruction_length == len(assemble(source)) - (0 if reason == ExitReason.HALT else offset)
    if qualification is not None:
        assert cpu.state.qualification == qualification


def test_syscall_goes_to_lstar_when_the_guest_is_privileged(box: Sandbox) -> None:
    box.load(assemble("hlt", CODE + 0x800), CODE + 0x800)
    cpu = box.cpu(assemble("syscall"), cpl=3, deprivileged=False)
    state = cpu.state
    state.lstar, state.star, state.sfmask, state.rflags = CODE + 0x800, 0x10 << 32, 0x200, 0x246
    assert cpu.run() == ExitReason.HALT
    assert (state.rip, state.rcx, state.r11, state.cpl) == (CODE + 0x801, CODE + 2, 0x246, 0)
    assert (state.rflags, state.segs[1].selector, state.segs[2].selector) == (0x46, 0x10, 0x18)


def test_a_fault_without_an_idt_is_a_triple_fault_when_the_guest_is_privileged(box: Sandbox) -> None:
    cpu = box.cpu(assemble("ud2"), cpl=0, deprivileged=False)
    cpu.state.idt.limit = 0
    assert cpu.run() == ExitReason.TRIPLE_FAULT


def test_popf_of_a_deprivileged_kernel_leaves_if_and_iopl_alone(box: Sandbox) -> None:
    cpu = box.cpu(assemble("push 0x3246; popfq; pushfq; pop rax; syscall"))
    cpu.state.rflags = 0x2
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == 0x46


@pytest.mark.parametrize("flags", [0x2, 0x8D7, 0xCD7, 0x40202, 0x3202, 0x200246, 0x4602])
def test_flags_are_carried_in_and_out(box: Sandbox, flags: int) -> None:
    cpu = box.cpu(assemble("pushfq; pop rax; syscall"))
    cpu.state.rflags = flags
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rflags, cpu.state.rax) == (flags, flags)


def test_flags_that_were_computed_come_out(box: Sandbox) -> None:
    cpu = box.cpu(assemble("mov al, 0x7f; add al, 1; std; syscall"))
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rflags == 0xC92  # OF DF SF AF


def test_general_registers_come_in_and_out(box: Sandbox) -> None:
    cpu = box.cpu(
        assemble("xchg rax, r15; xchg rbx, r14; xchg rcx, r13; xchg rdx, r12; xchg rsi, r11; xchg rdi, r10; xchg rbp, r9; syscall")
    )
    names = ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"]
    for number, name in enumerate(names):
        setattr(cpu.state, name, 0x1111111111111111 * (number % 15 + 1))
    assert cpu.run() == ExitReason.SYSCALL
    values = [getattr(cpu.state, name) // 0x1111111111111111 - 1 for name in names]
    assert values == [0, 14, 13, 12, 11, 10, 9, 7, 8, 6, 5, 4, 3, 2, 1, 0]


def test_the_time_stamp_counter_is_the_one_the_engine_tells(box: Sandbox) -> None:
    cpu = box.cpu(assemble("rdtsc; syscall"))
    before = box.engine.tsc()
    cpu.run()
    inside = cpu.state.rdx << 32 | cpu.state.rax
    assert before <= inside <= box.engine.tsc()


def test_no_address_is_special(box: Sandbox) -> None:
    """Unicorn's 'until' address, 0 by default, must not stop anything."""
    box.load(assemble("mov eax, 5; syscall", 0), 0)
    cpu = box.cpu()
    cpu.state.rip = 0
    assert cpu.run() == ExitReason.SYSCALL
    assert (cpu.state.rax, cpu.state.rip) == (5, 7)


def test_task_switched_faults_on_fpu_use(box: Sandbox) -> None:
    cpu = box.cpu(assemble("pxor xmm0, xmm0; syscall"))
    cpu.state.cr0 |= 8
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rip) == (NM, CODE)


IRET_FRAME = """
    mov ecx, ss; push rcx; push {rsp}; push {flags}; mov ecx, cs; push rcx; lea rax, [rip + 1f]; push rax; xor eax, eax
    iretq
    hlt
1:  pushfq; pop rax; syscall
"""


def test_an_iret_of_a_deprivileged_kernel_to_itself_is_native(box: Sandbox) -> None:
    """IF and IOPL stay as they are: the kernel believes to be in ring 3."""
    cpu = box.cpu(assemble(IRET_FRAME.format(rsp="0x30000", flags="0x243ed7")))
    cpu.state.segs[1].selector, cpu.state.segs[2].selector = 0xE033, 0xE02B
    assert cpu.run() == ExitReason.SYSCALL
    state = cpu.state
    assert (state.rsp, state.rax, state.cpl) == (0x30000, 0x240CD7, 1)
    assert (state.segs[1].selector, state.segs[2].selector) == (0xE033, 0xE02B)


def test_an_iret_to_itself_starts_single_steps(box: Sandbox) -> None:
    cpu = box.cpu(assemble(IRET_FRAME.format(rsp="0x30000", flags="0x102")))
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rsp) == (1, 0x2FFF8)  # after the one instruction that follows


@pytest.mark.parametrize(("slot", "value"), [(0, 1 << 47), (8, 0xE02B), (8, 0), (32, 0xE033), (32, 1 << 16 | 0xE02B)])
def test_any_other_iret_of_a_deprivileged_kernel_leaves(box: Sandbox, slot: int, value: int) -> None:
    cpu = box.cpu(assemble("iretq"))
    cpu.state.segs[1].selector, cpu.state.segs[2].selector = 0xE033, 0xE02B
    cpu.state.rsp -= 64
    rsp = cpu.state.rsp
    for number, part in enumerate((CODE, 0xE033, 2, rsp, 0xE02B)):
        box.write(rsp + number * 8, part)
    box.write(rsp + slot, value)
    assert cpu.run() == ExitReason.FAR_TRANSFER
    assert (cpu.state.rip, cpu.state.rsp) == (CODE, rsp)


def test_an_iret_with_nt_set_leaves(box: Sandbox) -> None:
    cpu = box.cpu(assemble(IRET_FRAME.format(rsp="0x30000", flags="2")))
    cpu.state.rflags = 0x4002
    assert cpu.run() == ExitReason.FAR_TRANSFER
