"""The FXSAVE image, against what the guest's own fxsave and fxrstor see."""

from __future__ import annotations

import struct

import pytest

from pyxen.engine.interface import ExitReason
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
