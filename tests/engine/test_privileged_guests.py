"""Guests with ring 0 and an IDT of their own: delivery, injection, mode changes, and physical addresses of their own."""

from __future__ import annotations

import ctypes
import struct

import pytest

from pyxen.engine.interface import CS, DS, SS, Dirty, EventType, ExitReason, Segment, VirtualCpu, injected_event
from pyxen.engine.sandbox import CODE, DATA, PAGE, PRESENT, STACK_TOP, WRITE, Sandbox
from tests.engine.assembler import assemble

GDT, IDT, TSS, HANDLERS = DATA, DATA + PAGE, DATA + 2 * PAGE, DATA + 3 * PAGE
KERNEL_STACK = DATA + 10 * PAGE
KERNEL_CS, KERNEL_DS, USER_CS, USER_DS, TSS_SELECTOR = 0x08, 0x10, 0x1B, 0x23, 0x28
IF = 0x200
HOLE = 0x500000


def ring0(box: Sandbox, source: str, handlers: dict[int, str] | None = None, *, cpl: int = 0) -> VirtualCpu:
    """A 64-bit guest kernel about to run ``source``; each handler is a gate at DPL 3 to its code."""
    for entry, descriptor in enumerate((0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00AFFB000000FFFF, 0x00CFF3000000FFFF)):
        box.write(GDT + entry * 8, descriptor)
    box.write(TSS + 4, KERNEL_STACK)
    for number, (vector, code) in enumerate((handlers or {}).items()):
        target = HANDLERS + number * 256
        box.load(assemble(code, target), target)
        box.memory[IDT + vector * 16 : IDT + vector * 16 + 16] = struct.pack(
            "<HHBBHII", target & 0xFFFF, KERNEL_CS, 0, 0xEE, target >> 16 & 0xFFFF, target >> 32, 0
        )
    cpu = box.cpu(assemble(source), cpl=cpl, deprivileged=False)
    state = cpu.state
    for number, selector, attributes in (
        (CS, KERNEL_CS if cpl == 0 else USER_CS, 0xA09B00 | cpl << 13),
        (SS, KERNEL_DS if cpl == 0 else USER_DS, 0xC09300 | cpl << 13),
    ):
        state.segs[number].selector, state.segs[number].attributes = selector, attributes
    state.gdt.base, state.gdt.limit = GDT, 5 * 8 - 1
    state.idt.base, state.idt.limit = IDT, 256 * 16 - 1
    state.tr = Segment(TSS, 0x67, 0x8B00, TSS_SELECTOR, 0)
    return cpu


# ------------------------------------------------------------------ delivery


def test_a_page_fault_goes_through_the_idt(box: Sandbox) -> None:
    cpu = ring0(box, f"mov rbx, {HOLE}; mov rax, [rbx]; hlt", {14: "pop rcx; mov rdx, cr2; pop rsi; hlt"})
    assert cpu.run() == ExitReason.HALT
    state = cpu.state
    assert (state.rcx, state.rdx, state.rsi, state.rflags & IF) == (0, HOLE, CODE + 7, 0)


def test_int_and_iretq_between_rings(box: Sandbox) -> None:
    cpu = ring0(box, "int 0x80; vmcall", {0x80: "mov rax, cs; mov rbx, rsp; iretq"}, cpl=3)
    assert cpu.run() == ExitReason.HYPERCALL
    state = cpu.state
    assert (state.rax, state.rbx, state.cpl) == (KERNEL_CS, KERNEL_STACK - 40, 3)
    assert (state.rip, state.rsp, state.instruction_length) == (CODE + 2, STACK_TOP, 3)


def test_a_fault_in_delivery_is_a_double_fault_and_then_a_triple_fault(box: Sandbox) -> None:
    cpu = ring0(box, "ud2", {8: "hlt"})
    assert cpu.run() == ExitReason.HALT
    assert box.read(cpu.state.rsp) == 0  # the error code of #DF
    cpu = ring0(box, "ud2")
    box.memory[IDT : IDT + PAGE] = bytes(PAGE)
    assert cpu.run() == ExitReason.TRIPLE_FAULT


@pytest.mark.parametrize("attributes", [0, 0x8200])
def test_a_missing_task_state_segment_is_the_guests_fault(box: Sandbox, attributes: int) -> None:
    cpu = ring0(box, "int 0x80", {0x80: "hlt"}, cpl=3)
    cpu.state.tr = Segment(0, 0, attributes, 0, 0)
    assert cpu.run() == ExitReason.TRIPLE_FAULT


@pytest.mark.parametrize("attributes", [0, 0x8200])
def test_a_missing_task_state_segment_of_32_bit_code_too(box: Sandbox, attributes: int) -> None:
    box.write(GDT + 8, 0x00CF9B000000FFFF)
    box.write(IDT + 0x80 * 8, HANDLERS & 0xFFFF | KERNEL_CS << 16 | 0xEE00 << 32 | HANDLERS >> 16 << 48)
    cpu = bare_cpu(box, b"\xcd\x80", cr0=0x11, attributes=0xC06000)
    state = cpu.state
    state.cpl = 3
    state.gdt.base, state.gdt.limit, state.idt.base, state.idt.limit = GDT, 0xF, IDT, 0x7FF
    state.tr = Segment(0, 0, attributes, 0, 0)
    assert cpu.run() == ExitReason.TRIPLE_FAULT


def test_the_io_bitmap_of_the_task_state_segment(box: Sandbox) -> None:
    cpu = ring0(box, "in al, 0x10; in al, 0x11", {13: "hlt"}, cpl=3)
    cpu.state.tr.limit = 0x80
    box.write(TSS + 0x66, 0x68, 2)
    box.write(TSS + 0x68 + 2, 0x02, 1)  # port 0x11 is denied
    assert cpu.run() == ExitReason.IO
    assert cpu.state.qualification & 0xFFFF == 0x10
    cpu.state.rip += 2
    assert cpu.run() == ExitReason.HALT
    assert box.read(cpu.state.rsp + 8) == CODE + 2


FAR_CALL = ".byte 0xff, 0x1b"  # call far [rbx]


@pytest.mark.parametrize(("instruction", "error"), [("retf", 5), ("iretq", 5), (FAR_CALL, 7)])
def test_far_transfers_of_user_code_have_its_rights(box: Sandbox, instruction: str, error: int) -> None:
    """They can't read or write the kernel's stack, and a page fault of theirs is one of user code."""
    box.map(HOLE, DATA + 5 * PAGE, PRESENT | WRITE)
    box.write(DATA + 6 * PAGE, CODE | USER_CS << 32)
    cpu = ring0(box, f"mov rsp, {HOLE + 0x800}; mov rbx, {DATA + 6 * PAGE}; {instruction}", {14: "pop rdi; mov rdx, cr2; hlt"}, cpl=3)
    assert cpu.run() == ExitReason.HALT
    assert (cpu.state.rdi, cpu.state.rdx & -PAGE) == (error, HOLE)


@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
@pytest.mark.parametrize("cpl", [0, 3])
def test_hypercalls_leave(box: Sandbox, instruction: str, cpl: int) -> None:
    cpu = ring0(box, f"nop; {instruction}", cpl=cpl)
    assert cpu.run() == ExitReason.HYPERCALL
    assert cpu.state.rip == CODE + 1


def test_an_invalid_opcode_is_still_one(box: Sandbox) -> None:
    cpu = ring0(box, "ud2", {6: "hlt"})
    assert cpu.run() == ExitReason.HALT
    assert box.read(cpu.state.rsp) == CODE


def test_syscall_and_sysret(box: Sandbox) -> None:
    cpu = ring0(box, "syscall; vmcall", cpl=3)
    box.load(assemble("mov rbx, rcx; sysretq", HANDLERS), HANDLERS)
    state = cpu.state
    state.star, state.lstar = KERNEL_CS << 32 | (KERNEL_DS | 3) - 0x8 << 48, HANDLERS
    assert cpu.run() == ExitReason.HYPERCALL
    assert (state.rbx, state.rip, state.cpl) == (CODE + 2, CODE + 2, 3)


def test_sysenter_goes_to_the_msrs(box: Sandbox) -> None:
    cpu = ring0(box, "sysenter", cpl=3)
    box.load(b"\xf4", HANDLERS)
    state = cpu.state
    state.sysenter_cs, state.sysenter_esp, state.sysenter_eip = KERNEL_CS, KERNEL_STACK, HANDLERS
    assert cpu.run() == ExitReason.HALT
    assert (state.rip, state.rsp, state.cpl) == (HANDLERS + 1, KERNEL_STACK, 0)


# ------------------------------------------------------------------ injection

COUNT = "inc r15; iretq"


def test_an_interrupt_is_taken(box: Sandbox) -> None:
    cpu = ring0(box, "nop; hlt", {0x40: COUNT})
    cpu.state.rflags |= IF
    cpu.state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    assert cpu.run() == ExitReason.HALT
    assert (cpu.state.r15, cpu.state.injection, cpu.state.rflags & IF) == (1, 0, IF)


@pytest.mark.parametrize(
    ("enable", "shadow"),
    [
        ("sti", True),
        ("push 0x202; popfq", False),
        ("mov ecx, ss; push rcx; push rbx; push 0x202; push 8; lea rax, [rip + 1f]; push rax; iretq; 1:", False),
    ],
)
def test_an_interrupt_waits_until_the_guest_takes_it(box: Sandbox, enable: str, shadow: bool) -> None:
    cpu = ring0(box, f"mov rbx, rsp; inc r14; {enable}; inc r14; inc r14; hlt", {0x40: "mov r13, r14; inc r15; iretq"})
    cpu.state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    assert cpu.run() == ExitReason.HALT
    assert (cpu.state.r15, cpu.state.r13, cpu.state.r14) == (1, 2 if shadow else 1, 3)


def test_an_interrupt_waits_across_exits(box: Sandbox) -> None:
    cpu = ring0(box, "cpuid; vmcall; sti; nop; hlt", {0x40: COUNT})
    state = cpu.state
    state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    for reason, length in ((ExitReason.CPUID, 2), (ExitReason.HYPERCALL, 3)):
        assert cpu.run() == reason
        assert state.injection >> 31
        state.rip += length
    assert cpu.run() == ExitReason.HALT
    assert (state.r15, state.injection) == (1, 0)


def test_an_interrupt_ends_a_halt(box: Sandbox) -> None:
    cpu = ring0(box, "sti; hlt; cli; vmcall", {0x40: COUNT})
    assert cpu.run() == ExitReason.HALT
    cpu.state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    assert cpu.run() == ExitReason.HYPERCALL
    assert cpu.state.r15 == 1


def test_an_interrupt_given_with_a_kick_to_a_running_guest(box: Sandbox) -> None:
    cpu = ring0(box, "sti; 1: test r15, r15; jz 1b; cli; hlt", {0x40: COUNT})
    cpu.kick()
    assert cpu.run() == ExitReason.KICK
    cpu.state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    assert cpu.run() == ExitReason.HALT


def test_user_space_is_interrupted(box: Sandbox) -> None:
    cpu = ring0(box, "1: test r15, r15; jz 1b; vmcall", {0x40: COUNT}, cpl=3)
    cpu.state.rflags |= IF
    cpu.state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    assert cpu.run() == ExitReason.HYPERCALL
    assert (cpu.state.cpl, cpu.state.r15) == (3, 1)


def test_the_interrupt_window(box: Sandbox) -> None:
    cpu = ring0(box, "nop; sti; nop; nop; hlt")
    cpu.state.interrupt_window = 1
    assert cpu.run() == ExitReason.INTERRUPT_WINDOW
    assert cpu.state.rip == CODE + 3  # past the shadow of sti
    assert cpu.run() == ExitReason.INTERRUPT_WINDOW  # it asks each time
    cpu.state.interrupt_window = 0
    assert cpu.run() == ExitReason.HALT


def test_an_nmi_needs_no_if_and_does_not_nest(box: Sandbox) -> None:
    cpu = ring0(box, "nop; hlt", {2: "inc r15; vmcall; iretq"})
    state = cpu.state
    state.injection = injected_event(EventType.NMI, 2)
    assert cpu.run() == ExitReason.HYPERCALL
    state.rip += 3
    state.injection = injected_event(EventType.NMI, 2)
    assert cpu.run() == ExitReason.HYPERCALL  # after the first one's iret
    assert state.r15 == 2
    state.rip += 3
    assert cpu.run() == ExitReason.HALT


def test_an_exception_with_an_error_code(box: Sandbox) -> None:
    cpu = ring0(box, "mov ecx, 0x12345; rdmsr; hlt", {13: "pop rbx; pop rdx; hlt"})
    assert cpu.run() == ExitReason.RDMSR
    cpu.state.injection = injected_event(EventType.EXCEPTION, 13, has_error_code=True)
    cpu.state.injection_error_code = 0x18
    assert cpu.run() == ExitReason.HALT
    assert (cpu.state.rbx, cpu.state.rdx, cpu.state.injection) == (0x18, CODE + 5, 0)


def test_an_injection_whose_delivery_faults(box: Sandbox) -> None:
    cpu = ring0(box, "hlt", {13: "pop rbx; hlt"})
    cpu.state.idt.limit = 14 * 16 - 1
    cpu.state.rflags |= IF
    cpu.state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, 0x40)
    assert cpu.run() == ExitReason.HALT
    assert (cpu.state.rbx, cpu.state.injection) == (0x40 * 8 + 2, 0)


def test_injections_are_not_for_deprivileged_guests(box: Sandbox) -> None:
    cpu = box.cpu(assemble("syscall"))
    cpu.state.rflags |= IF
    cpu.state.injection, cpu.state.interrupt_window = injected_event(EventType.NMI, 2), 1
    assert cpu.run() == ExitReason.SYSCALL


# ------------------------------------------------------------------ system registers and modes


def test_system_registers_come_out(box: Sandbox) -> None:
    cpu = ring0(
        box,
        f"""
        lgdt [rip + 1f]; lidt [rip + 2f]; mov eax, {TSS_SELECTOR}; ltr ax
        mov rax, cr4; or rax, 0x80; mov cr4, rax; mov rax, cr0; or rax, 8; mov cr0, rax
        mov eax, 0x1000; mov dr0, rax; swapgs; hlt
    1:  .word 0x6f; .quad {GDT}
    2:  .word 0x7ff; .quad {IDT}
        """,
    )
    box.write(GDT + TSS_SELECTOR, 0x0000890000000067 | (TSS & 0xFFFFFF) << 16)
    box.write(GDT + TSS_SELECTOR + 8, 0)
    state = cpu.state
    state.segs[5].base, state.kernel_gs_base = 0x1111, 0x2222
    cr4 = state.cr4
    assert cpu.run() == ExitReason.HALT
    assert (state.gdt.base, state.gdt.limit, state.idt.limit) == (GDT, 0x6F, 0x7FF)
    assert (state.tr.selector, state.tr.base, state.tr.attributes) == (TSS_SELECTOR, TSS, 0x8B00)
    assert (state.cr4, state.cr0 & 8, state.dr[0]) == (cr4 | 0x80, 8, 0x1000)
    assert (state.segs[5].base, state.kernel_gs_base) == (0x2222, 0x1111)


def test_mov_cr3_and_invlpg_flush(box: Sandbox) -> None:
    entry = box.map(HOLE, DATA + 4 * PAGE, PRESENT | WRITE)
    box.map(HOLE + (1 << 30), entry & ~0xFFF, PRESENT | WRITE)  # the guest changes its own tables
    window = HOLE + (1 << 30) + (entry & 0xFFF)
    box.write(DATA + 4 * PAGE, 1)
    box.write(DATA + 5 * PAGE, 2)
    box.write(DATA + 6 * PAGE, 3)
    cpu = ring0(
        box,
        f"""
        mov rbx, {HOLE}; mov rdx, {window}
        mov r8, [rbx]; mov qword ptr [rdx], {DATA + 5 * PAGE + 3}; invlpg [rbx]
        mov r9, [rbx]; mov qword ptr [rdx], {DATA + 6 * PAGE + 3}; mov rax, cr3; mov cr3, rax
        mov r10, [rbx]; hlt
        """,
    )
    assert cpu.run() == ExitReason.HALT
    assert (cpu.state.r8, cpu.state.r9, cpu.state.r10) == (1, 2, 3)


def test_a_guest_sets_and_moves_its_own_data_breakpoints(box: Sandbox) -> None:
    target = DATA + 8 * PAGE
    cpu = ring0(
        box,
        f"""
        mov rbx, {target}; mov [rbx], rax; mov [rbx + {PAGE}], rax
        mov dr0, rbx; mov eax, 0xd0402; mov dr7, rax; mov [rbx], rax; mov [rbx + {PAGE}], rax
        add rbx, {PAGE}; mov dr0, rbx; mov [rbx], rax
        vmcall
        """,
        {1: "inc r15; iretq"},
    )
    assert cpu.run() == ExitReason.HYPERCALL
    assert cpu.state.r15 == 2


def bare_cpu(box: Sandbox, code: bytes, *, cr0: int, attributes: int) -> VirtualCpu:
    """As a CPU is before it has a page table: flat segments, no long mode."""
    cpu = box.cpu(code, cpl=0, deprivileged=False)
    state = cpu.state
    state.cr0, state.cr3, state.cr4, state.efer = cr0, 0, 0, 0
    for number in range(6):
        state.segs[number] = Segment(0, 0xFFFFFFFF, attributes | (0x9B00 if number == CS else 0x9300), 8, 0)
    return cpu


def real_mode_code() -> bytes:
    # mov ax,0x2000; mov ds,ax; mov [0x10],ax; int 0x21; hlt
    return bytes.fromhex("b80020 8ed8 a31000 cd21 f4")


def test_real_mode(box: Sandbox) -> None:
    cpu = bare_cpu(box, real_mode_code(), cr0=0x10, attributes=0)
    state = cpu.state
    for number in range(6):
        state.segs[number] = Segment(0, 0xFFFF, 0x9B00 if number == CS else 0x9300, 0, 0)
    state.segs[CS].base, state.segs[CS].selector, state.rip, state.rsp = CODE, CODE >> 4, 0, 0x1000
    state.idt.base, state.idt.limit = 0, 0x3FF
    box.load(bytes.fromhex("bb3412 cf"), 0x2000)  # mov bx,0x1234; iret
    box.write(0x21 * 4, 0x2000, 4)
    assert cpu.run() == ExitReason.HALT
    assert (box.read(DATA + 0x10, 2), state.rbx & 0xFFFF, state.rip) == (0x2000, 0x1234, len(real_mode_code()))
    assert (state.segs[DS].selector, state.segs[DS].base) == (0x2000, DATA)


def test_protected_mode_without_paging(box: Sandbox) -> None:
    cpu = bare_cpu(box, bytes.fromhex("40 a300000200 f4"), cr0=0x11, attributes=0xC00000)  # inc eax; mov [DATA],eax; hlt
    cpu.state.rax = 41
    assert cpu.run() == ExitReason.HALT
    assert box.read(DATA, 4) == 42


@pytest.mark.parametrize("pae", [False, True])
def test_32_bit_paging(box: Sandbox, pae: bool) -> None:
    cpu = bare_cpu(box, bytes.fromhex("a300006000 f4"), cr0=0x80000011, attributes=0xC00000)  # mov [0x600000],eax; hlt
    root, directory, table = 0x200000, 0x201000, 0x202000
    size = 8 if pae else 4
    entries_per_table = PAGE // size
    for page in range(64):
        box.write(table + page * size, page * PAGE | 3, size)
    if pae:
        box.write(root, directory | 1)
        cpu.state.cr4 = 0x20
    else:
        directory = root
    box.write(directory, table | 3, size)
    slot = 0x600 // entries_per_table
    box.write(directory + slot * size, (table + PAGE) | 3, size)
    target = table + PAGE + 0x600 % entries_per_table * size
    box.write(target, DATA | 3, size)
    cpu.state.cr3, cpu.state.rax = root, 77
    assert cpu.run() == ExitReason.HALT
    assert box.read(DATA, 4) == 77
    assert box.read(target, size) == DATA | 0x63


def test_a_kernel_goes_from_protected_mode_to_long_mode(box: Sandbox) -> None:
    """As PVH kernels start: PAE, EFER by wrmsr (an exit), paging, far jump."""
    source = f"""
        .code32
        mov eax, cr4; or eax, 0x20; mov cr4, eax
        mov eax, {box.root}; mov cr3, eax
        mov ecx, 0xc0000080; mov eax, 0x100; xor edx, edx; wrmsr
        mov eax, cr0; or eax, 0x80000000; mov cr0, eax
        .byte 0xea; .long 1f; .word {KERNEL_CS}
        .code64
    1:  movabs rax, 0x123456789abc; hlt
    """
    box.write(GDT + 8, 0x00AF9B000000FFFF)
    cpu = bare_cpu(box, assemble(source), cr0=0x11, attributes=0xC00000)
    state = cpu.state
    state.gdt.base, state.gdt.limit = GDT, 0x1F
    assert cpu.run() == ExitReason.WRMSR
    assert (state.rcx, state.rax) == (0xC0000080, 0x100)
    state.efer, state.dirty = 0x100, Dirty.CONTROL
    state.rip += 2
    assert cpu.run() == ExitReason.HALT
    assert (state.rax, state.efer, state.segs[CS].attributes & 0x200000) == (0x123456789ABC, 0x500, 0x200000)


# ------------------------------------------------------------------ physical addresses of its own

NO_MEMORY, READ_ONLY = 0xFFFFFFFF, 1 << 31


class PhysicalMap:
    """A guest whose frame n is the machine's frame n + 256, but for what a test changes."""

    def __init__(self, box: Sandbox, cpu: VirtualCpu, frames: int = 512) -> None:
        self.entries = (ctypes.c_uint32 * frames)(*(frame + 256 for frame in range(frames)))
        cpu.set_physical_map(ctypes.addressof(self.entries), frames)


def guest_in_map(box: Sandbox, code: bytes) -> tuple[VirtualCpu, PhysicalMap]:
    """Paging is off: linear addresses are the guest's physical ones."""
    cpu = bare_cpu(box, b"", cr0=0x11, attributes=0xC00000)
    box.load(code, CODE + 256 * PAGE)
    return cpu, PhysicalMap(box, cpu)


def test_physical_addresses_are_looked_up(box: Sandbox) -> None:
    cpu, _ = guest_in_map(box, bytes.fromhex("a300000200 a108000200 f4"))  # mov [DATA],eax; mov eax,[DATA+8]; hlt
    cpu.state.rax = 5
    box.write(DATA + 256 * PAGE + 8, 6)
    assert cpu.run() == ExitReason.HALT
    assert (box.read(DATA + 256 * PAGE, 4), cpu.state.rax, box.read(DATA, 4)) == (5, 6, 0)


@pytest.mark.parametrize(("code", "write"), [("a300000200", True), ("a100000200", False)])
def test_a_frame_that_is_no_memory(box: Sandbox, code: str, write: bool) -> None:
    cpu, physical = guest_in_map(box, bytes.fromhex(code))
    physical.entries[DATA // PAGE] = NO_MEMORY
    assert cpu.run() == ExitReason.BAD_MEMORY
    assert (cpu.state.qualification, cpu.state.error_code, cpu.state.rip) == (DATA, 2 if write else 0, CODE)
    physical.entries[DATA // PAGE] = 300
    assert cpu.run() in (ExitReason.BAD_MEMORY, ExitReason.HALT)


@pytest.mark.parametrize("entry", [NO_MEMORY, 1 << 20])
def test_code_that_is_no_memory(box: Sandbox, entry: int) -> None:
    cpu, physical = guest_in_map(box, b"\xf4")
    physical.entries[CODE // PAGE] = entry
    assert cpu.run() == ExitReason.BAD_MEMORY
    assert (cpu.state.qualification & ~0xFFF, cpu.state.error_code) == (CODE, 16)


def test_a_frame_beyond_the_map(box: Sandbox) -> None:
    cpu, physical = guest_in_map(box, bytes.fromhex("a100002000 f4"))  # mov eax,[0x200000]
    assert cpu.run() == ExitReason.BAD_MEMORY
    assert cpu.state.qualification == 0x200000
    del physical


def test_a_read_only_frame(box: Sandbox) -> None:
    cpu, physical = guest_in_map(box, bytes.fromhex("a100000200 a300000200 f4"))  # load, then store
    physical.entries[DATA // PAGE] |= READ_ONLY
    box.write(DATA + 256 * PAGE, 7)
    assert cpu.run() == ExitReason.BAD_MEMORY
    assert (cpu.state.rax, cpu.state.rip, cpu.state.error_code) == (7, CODE + 5, 2)


def test_page_tables_are_looked_up_too_and_must_be_writable(box: Sandbox) -> None:
    cpu = ring0(box, f"mov eax, [{DATA + 8}]; hlt")
    frames = 512
    entries = (ctypes.c_uint32 * frames)(*range(frames))
    shifted = box.root // PAGE + 128
    entries[shifted], entries[box.root // PAGE] = box.root // PAGE, NO_MEMORY
    cpu.set_physical_map(ctypes.addressof(entries), frames)
    cpu.state.cr3 = shifted * PAGE
    assert cpu.run() == ExitReason.HALT
    entries[shifted] |= READ_ONLY
    cpu.state.rip, cpu.state.dirty = CODE, Dirty.FLUSH_TLB
    assert cpu.run() == ExitReason.BAD_MEMORY
    assert cpu.state.qualification & ~0xFFF == shifted * PAGE


def test_code_changed_by_the_hypervisor_is_noticed_by_machine_frame(box: Sandbox) -> None:
    cpu, _ = guest_in_map(box, bytes.fromhex("b801000000 f4"))
    frame = CODE // PAGE + 256
    assert cpu.run() == ExitReason.HALT
    assert box.engine.has_translated_code(frame)
    box.load(bytes.fromhex("b802000000 f4"), frame * PAGE)
    cpu.invalidate_frame(frame)
    cpu.state.rip = CODE
    assert cpu.run() == ExitReason.HALT
    assert cpu.state.rax == 2
