"""The FXSAVE image, against what the guest's own fxsave and fxrstor see."""

from __future__ import annotations

import struct

import pytest

from pyxen.engine.interface import Dirty, ExitReason
from pyxen.engine.sandbox import DATA, Sandbox
from tests.engine.assembler import assemble

FPU_BYTES = 416  #: the part of the image that a CPU defines


def image_with_everything() -> bytes:
    image = bytearray(512)
    struct.pack_into("<HHB", image, 0, 0x0F7F, 0x3800 | 0x4500, 0b11000011)
    struct.pack_into("<II", image, 24, 0x7FC0, 0xFFFF)
    for number in range(8):
        image[32 + 16 * number : 42 + 16 * number] = bytes(range(number + 1, number + 9)) + struct.pack("<H", 0x3FFF + number)
    for number in range(16):
        image[160 + 16 * number : 176 + 16 * number] = bytes([number * 16 + low for low in range(16)])
    return bytes(image)


def test_round_trip(box: Sandbox) -> None:
    cpu = box.cpu()
    image = image_with_everything()
    cpu.write_fpu(image)
    assert cpu.read_fpu()[:FPU_BYTES] == image[:FPU_BYTES]


def test_the_guest_sees_what_was_written(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; fxsave64 [rbx]; syscall"))
    image = image_with_everything()
    cpu.write_fpu(image)
    assert cpu.run() == ExitReason.SYSCALL
    assert box.memory[DATA : DATA + FPU_BYTES] == image[:FPU_BYTES]


def test_what_the_guest_loaded_is_read(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; fxrstor64 [rbx]; syscall"))
    image = image_with_everything()
    box.memory[DATA : DATA + 512] = image
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.read_fpu()[:FPU_BYTES] == image[:FPU_BYTES]


def test_control_words_take_effect(box: Sandbox) -> None:
    """MXCSR rounding: 1/3 rounded down and up differ."""
    cpu = box.cpu(assemble("cvtsi2sd xmm0, rax; cvtsi2sd xmm1, rcx; divsd xmm0, xmm1; movq rdx, xmm0; syscall"))
    results = []
    for rounding in (1, 2):
        image = bytearray(cpu.read_fpu())
        struct.pack_into("<I", image, 24, 0x1F80 | rounding << 13)
        cpu.write_fpu(bytes(image))
        cpu.state.rip, cpu.state.rax, cpu.state.rcx = 0x10000, 1, 3
        assert cpu.run() == ExitReason.SYSCALL
        results.append(cpu.state.rdx)
    assert results[1] == results[0] + 1


def test_a_new_cpu_has_the_reset_state(box: Sandbox) -> None:
    image = box.cpu().read_fpu()
    assert struct.unpack_from("<HHB", image) == (0x37F, 0, 0)
    assert struct.unpack_from("<I", image, 24) == (0x1F80,)


@pytest.mark.parametrize("image", [b"", bytes(511), bytes(513)])
def test_another_size_is_refused(box: Sandbox, image: bytes) -> None:
    with pytest.raises(ValueError, match="512 bytes"):
        box.cpu().write_fpu(image)


def test_reserved_bits_of_mxcsr_are_refused(box: Sandbox) -> None:
    cpu = box.cpu()
    before = cpu.read_fpu()
    image = bytearray(image_with_everything())
    struct.pack_into("<I", image, 24, 0x10000)
    with pytest.raises(ValueError, match="MXCSR"):
        cpu.write_fpu(bytes(image))
    assert cpu.read_fpu() == before


def test_an_unmasked_x87_exception_is_a_fault(box: Sandbox) -> None:
    cpu = box.cpu(assemble("fninit; push 0x37b; fldcw [rsp]; fld1; fldz; fdivp; fwait; syscall"))
    assert cpu.run() == ExitReason.EXCEPTION
    assert cpu.state.vector == 16


XM, GP, UD = 19, 13, 6
#: xmm0 = 1.0, xmm1 = 0.0, xmm2 = 3.0
CONSTANTS = "mov eax, 1; cvtsi2sd xmm0, eax; xorps xmm1, xmm1; mov eax, 3; cvtsi2sd xmm2, eax"


def with_mxcsr(value: int, source: str) -> str:
    return f"{CONSTANTS}; push {value}; ldmxcsr [rsp]; {source}; stmxcsr [rsp]; pop rax; syscall"


@pytest.mark.parametrize(
    ("instruction", "flags"),
    [("divsd xmm0, xmm1", 4), ("divsd xmm0, xmm2", 32), ("divsd xmm1, xmm1", 1), ("addsd xmm0, xmm0", 0), ("sqrtsd xmm0, xmm0", 0)],
)
def test_mxcsr_keeps_the_exceptions_that_happened(box: Sandbox, instruction: str, flags: int) -> None:
    cpu = box.cpu(assemble(with_mxcsr(0x1F80, f"{instruction}; addsd xmm2, xmm2")))
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rax == 0x1F80 | flags
    assert struct.unpack_from("<I", cpu.read_fpu(), 24) == (0x1F80 | flags,)


@pytest.mark.parametrize(
    ("mxcsr", "instruction", "vector"),
    [
        (0x1D80, "divsd xmm0, xmm1", XM),
        (0x1D80, "divsd xmm0, xmm2", None),
        (0x0F80, "divsd xmm0, xmm2", XM),
        (0x1F00, "sqrtsd xmm0, xmm3", XM),
        (0x1D84, "addsd xmm0, xmm2", None),  # an old exception raises nothing
    ],
)
def test_unmasked_exceptions_fault(box: Sandbox, mxcsr: int, instruction: str, vector: int | None) -> None:
    head = f"pcmpeqd xmm3, xmm3; psllq xmm3, 52; {CONSTANTS}; push {mxcsr}; ldmxcsr [rsp]"  # xmm3 = -infinity
    cpu = box.cpu(assemble(f"{head}; {instruction}; syscall"))
    reason = cpu.run()
    if vector is None:
        assert reason == ExitReason.SYSCALL
    else:
        assert (reason, cpu.state.vector) == (ExitReason.EXCEPTION, vector)
        assert cpu.state.rip == 0x10000 + len(assemble(head))


def test_unmasked_exceptions_are_invalid_opcodes_without_osxmmexcpt(box: Sandbox) -> None:
    cpu = box.cpu(assemble(with_mxcsr(0x1D80, "divsd xmm0, xmm1")))
    cpu.state.cr4 &= ~(1 << 10)
    assert cpu.run() == ExitReason.EXCEPTION
    assert cpu.state.vector == UD


def test_an_unmasked_exception_survives_a_change_of_segments(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"{CONSTANTS}; push 0x1d80; ldmxcsr [rsp]; int3; divsd xmm0, xmm1"))
    assert cpu.run() == ExitReason.SOFTWARE_INTERRUPT
    cpu.state.dirty = Dirty.SEGMENTS | Dirty.CONTROL
    assert cpu.run() == ExitReason.EXCEPTION
    assert cpu.state.vector == XM


def test_flush_to_zero_is_for_sse_only(box: Sandbox) -> None:
    code = """
        movabs rax, 0x0010000000000000; movq xmm1, rax; mov eax, 2; cvtsi2sd xmm2, eax  # the least normal number, and 2.0
        push 0x9f80; ldmxcsr [rsp]
        divsd xmm1, xmm2
        movq rdx, xmm1; syscall
    """
    cpu = box.cpu(assemble(code))
    assert cpu.run() == ExitReason.SYSCALL
    assert cpu.state.rdx == 0


@pytest.mark.parametrize("source", ["push 0x10000; ldmxcsr [rsp]", f"mov ebx, {DATA}; fxrstor64 [rbx]"])
def test_reserved_bits_of_mxcsr_fault(box: Sandbox, source: str) -> None:
    image = bytearray(image_with_everything())
    struct.pack_into("<I", image, 24, 0x10000)
    box.memory[DATA : DATA + 512] = bytes(image)
    cpu = box.cpu(assemble(f"{source}; syscall"))
    before = cpu.read_fpu()
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rip, cpu.state.error_code) == (GP, 0x10005, 0)
    assert cpu.read_fpu() == before


def test_fxsave_of_the_guest_stores_the_exceptions_that_happened(box: Sandbox) -> None:
    cpu = box.cpu(assemble(f"{CONSTANTS}; divsd xmm0, xmm2; mov ebx, {DATA}; fxsave64 [rbx]; syscall"))
    assert cpu.run() == ExitReason.SYSCALL
    assert box.read(DATA + 24, 4) == 0x1F80 | 32


def test_fxrstor_unmasks_exceptions(box: Sandbox) -> None:
    image = bytearray(box.cpu().read_fpu())
    struct.pack_into("<I", image, 24, 0x1D80)
    box.memory[DATA : DATA + 512] = bytes(image)
    code = f"mov ebx, {DATA}; fxrstor64 [rbx]; mov eax, 1; cvtsi2sd xmm0, eax; divsd xmm0, xmm1"
    cpu = box.cpu(assemble(code))
    assert cpu.run() == ExitReason.EXCEPTION
    assert cpu.state.vector == XM


def test_fxsave_writes_the_last_opcode(box: Sandbox) -> None:
    """It is not kept, so it is 0, and not what was in memory (which may be another task's)."""
    box.memory[DATA : DATA + 512] = bytes([0xA5]) * 512
    cpu = box.cpu(assemble(f"mov rbx, {DATA}; fninit; fld1; fxsave [rbx]; syscall"))
    assert cpu.run() == ExitReason.SYSCALL
    image = bytes(box.memory[DATA : DATA + 512])
    assert image[6:8] == b"\0\0"
    assert b"\xa5" not in image[:32]


@pytest.mark.parametrize(
    "instruction",
    ["divsd xmm0, xmm1", "divpd xmm0, xmm1", "cvttsd2si rbx, xmm3", "comisd xmm0, xmm4", "sqrtsd xmm5, xmm3"],
)
def test_an_instruction_that_raises_xm_changes_nothing(box: Sandbox, instruction: str) -> None:
    """xmm3 = -infinity, xmm4 = a signalling NaN."""
    head = (
        "mov rax, 0x7ff0000000000001; movq xmm4, rax; pcmpeqd xmm3, xmm3; psllq xmm3, 52; movdqa xmm5, xmm3; movdqa xmm6, xmm3; "
        f"{CONSTANTS}; movdqa xmm7, xmm0; mov ebx, 77; push 0x1c00; ldmxcsr [rsp]; add rsp, 8; cmp ebx, 76"
    )
    plain = box.cpu(assemble(f"{head}; syscall"))
    assert plain.run() == ExitReason.SYSCALL
    cpu = box.cpu(assemble(f"{head}; {instruction}; syscall"))
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.rip) == (XM, 0x10000 + len(assemble(head)))
    assert (cpu.state.rbx, cpu.state.rflags) == (77, plain.state.rflags)
    assert cpu.read_fpu()[160:416] == plain.read_fpu()[160:416]
