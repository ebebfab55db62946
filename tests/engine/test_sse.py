"""SSE2's integer operations beside the host's own, and the alignment of SSE's operands."""

from __future__ import annotations

import ctypes
import mmap
import random

import pytest

from pyxen.engine.interface import ExitReason
from pyxen.engine.sandbox import CODE, DATA, PAGE, Sandbox
from tests.engine.assembler import assemble

GP, PF, AC = 13, 14, 17
CR0_AM, EFLAGS_AC = 1 << 18, 1 << 18
FXSAVE_XMM0 = 160
MAPPED_END = 0x40000
RESULTS = DATA + PAGE

BINARY = (
    "pand pandn por pxor andps andnps orps xorps andpd andnpd orpd xorpd paddb paddw paddd paddq psubb psubw psubd psubq paddsb paddsw "
    "paddusb paddusw psubsb psubsw psubusb psubusw pcmpeqb pcmpeqw pcmpeqd pcmpgtb pcmpgtw pcmpgtd pmullw pminub pmaxub pminsw pmaxsw "
    "punpcklbw punpcklwd punpckldq punpcklqdq punpckhbw punpckhwd punpckhdq punpckhqdq packsswb packssdw packuswb "
    "unpcklps unpcklpd unpckhps unpckhpd pmuludq pmaddwd psadbw pavgb pavgw pmulhw pmulhuw"
).split()
SHUFFLES = [
    f"{name} xmm0, {{}}, {order}" for name in ("pshufd", "shufps", "shufpd") for order in (0, 0x1B, 0x4E, 0xE4, 0xFF, 0x92, 1, 2, 3)
]
SHIFTS = [
    f"{name} xmm0, {count}"
    for name, bits in (("w", 16), ("d", 32), ("q", 64), ("dq", 16))
    for name in ((f"psrl{name}", f"psll{name}", f"psra{name}") if name in "wd" else (f"psrl{name}", f"psll{name}"))
    for count in (0, 1, 7, bits // 2, bits - 1, bits, bits + 1, 255)
]
#: What each does to xmm0, from xmm1 or memory.
OPERATIONS = [
    *(f"{name} xmm0, {operand}" for name in BINARY for operand in ("xmm1", "[rsi]", "xmm0")),
    *(shuffle.format(operand) for shuffle in SHUFFLES for operand in ("xmm1", "[rsi]", "xmm0")),
    *SHIFTS,
]
#: Run on the host and in the guest: rdi and rsi point to the operands, rdx to the results.
PROGRAM = "\n".join(
    f"movdqa xmm0, [rdi]; movdqa xmm1, [rsi]; {operation}; movdqa [rdx + {number * 16}], xmm0"
    for number, operation in enumerate(OPERATIONS)
)
RESULT_BYTES = len(OPERATIONS) * 16


@pytest.fixture(scope="module")
def host_program() -> object:
    """The program as a function of this process."""
    code = assemble(PROGRAM + "\nret")
    memory = mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)(address)
    function.memory = memory  # type: ignore[attr-defined]  # mapped as long as it can be called
    return function


def operands() -> list[tuple[bytes, bytes]]:
    """Random ones, and such as saturate and overflow."""
    generator = random.Random(1)
    extremes = (0, 1, 0x7F, 0x80, 0xFE, 0xFF)
    pairs = [(bytes(generator.choices(extremes, k=16)), bytes(generator.choices(extremes, k=16))) for _ in range(20)]
    return [*pairs, *((generator.randbytes(16), generator.randbytes(16)) for _ in range(10))]


def test_integer_operations_are_the_hosts(box: Sandbox, host_program: object) -> None:
    code = assemble(PROGRAM + "\nsyscall")
    assert len(code) < PAGE * 4
    assert len(box.memory[RESULTS : RESULTS + RESULT_BYTES]) <= 4 * PAGE
    cpu = box.cpu(code)
    # Aligned to a page, as the guest's are.
    host = mmap.mmap(-1, PAGE + RESULT_BYTES)
    base = ctypes.addressof(ctypes.c_char.from_buffer(host))
    for first, second in operands():
        box.memory[DATA : DATA + 32] = host[:32] = first + second
        state = cpu.state
        state.rip, state.rdi, state.rsi, state.rdx = CODE, DATA, DATA + 16, RESULTS
        assert cpu.run() == ExitReason.SYSCALL
        host_program(base, base + 16, base + PAGE)  # type: ignore[operator]
        for number, operation in enumerate(OPERATIONS):
            guests = box.memory[RESULTS + number * 16 : RESULTS + number * 16 + 16]
            assert guests == host[PAGE + number * 16 : PAGE + number * 16 + 16], (operation, first.hex(), second.hex())


ALIGNED = [
    "movdqa xmm0, [rdi]",
    "movaps xmm0, [rdi]",
    "movapd xmm0, [rdi]",
    "movdqa [rdi], xmm0",
    "movaps [rdi], xmm0",
    "movapd [rdi], xmm0",
    "movntdq [rdi], xmm0",
    "movntps [rdi], xmm0",
    "movntpd [rdi], xmm0",
    "movntdqa xmm0, [rdi]",
    "movshdup xmm0, [rdi]",
    "paddd xmm0, [rdi]",
    "punpcklbw xmm0, [rdi]",
    "psrld xmm0, [rdi]",
    "pshufd xmm0, [rdi], 1",
    "pshufb xmm0, [rdi]",
    "palignr xmm0, [rdi], 1",
    "addps xmm0, [rdi]",
    "cvtdq2ps xmm0, [rdi]",
    "cvtpd2pi mm0, [rdi]",
]
UNALIGNED = [
    "movdqu xmm0, [rdi]",
    "movups xmm0, [rdi]",
    "movupd xmm0, [rdi]",
    "lddqu xmm0, [rdi]",
    "movdqu [rdi], xmm0",
    "movups [rdi], xmm0",
    "movupd [rdi], xmm0",
    "movq xmm0, [rdi]",
    "movhps xmm0, [rdi]",
    "addss xmm0, [rdi]",
    "cvtps2pi mm0, [rdi]",
    "cvtps2pd xmm0, [rdi]",
    "cvtdq2pd xmm0, [rdi]",
    "pmovsxbw xmm0, [rdi]",
    "pcmpistri xmm0, [rdi], 0",
    "pcmpestrm xmm0, [rdi], 0",
]


@pytest.mark.parametrize("checks_alignment", [False, True])
@pytest.mark.parametrize("instruction", ALIGNED)
@pytest.mark.parametrize("offset", [1, 8])
def test_a_misaligned_operand_of_16_octets_faults(box: Sandbox, instruction: str, offset: int, checks_alignment: bool) -> None:
    cpu = box.cpu(assemble(f"{instruction}; syscall"), cpl=3)
    cpu.state.rdi = DATA
    assert cpu.run() == ExitReason.SYSCALL
    state = cpu.state
    state.rip, state.rdi = CODE, DATA + offset
    if checks_alignment:
        state.cr0 |= CR0_AM
        state.rflags |= EFLAGS_AC
        state.dirty = 63
    assert cpu.run() == ExitReason.EXCEPTION
    assert (state.vector, state.error_code, state.rip) == (GP, 0, CODE)


@pytest.mark.parametrize("instruction", UNALIGNED)
def test_other_operands_may_be_misaligned(box: Sandbox, instruction: str) -> None:
    cpu = box.cpu(assemble(f"{instruction}; syscall"), cpl=3)
    cpu.state.rdi = DATA + 1
    assert cpu.run() == ExitReason.SYSCALL


@pytest.mark.parametrize("instruction", ["cvtps2pi mm0, [rdi]", "cvttps2pi mm0, [rdi]", "cvtps2pd xmm0, [rdi]", "cvtdq2pd xmm0, [rdi]"])
def test_conversions_of_8_octets_load_no_more(box: Sandbox, instruction: str) -> None:
    cpu = box.cpu(assemble(f"{instruction}; syscall"), cpl=3)
    cpu.state.rdi = MAPPED_END - 8
    assert cpu.run() == ExitReason.SYSCALL


def test_a_load_that_faults_half_way_changes_nothing(box: Sandbox) -> None:
    cpu = box.cpu(assemble("pcmpeqb xmm0, xmm0; movdqu xmm0, [rdi]; syscall"))
    cpu.state.rdi = MAPPED_END - 8
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.cr2) == (PF, MAPPED_END)
    assert cpu.read_fpu()[FXSAVE_XMM0 : FXSAVE_XMM0 + 16] == b"\xff" * 16


@pytest.mark.parametrize("store", ["movdqu [rdi], xmm0", "movups [rdi], xmm0", "movupd fs:[rdi], xmm8", "movdqu [r13 + 8], xmm9"])
@pytest.mark.parametrize("inside", range(1, 16))
def test_a_store_that_crosses_into_a_missing_page_faults_at_its_start(box: Sandbox, store: str, inside: int) -> None:
    cpu = box.cpu(assemble(f"pcmpeqb xmm0, xmm0; movdqa xmm8, xmm0; movdqa xmm9, xmm0; {store}; syscall"))
    cpu.state.rdi = MAPPED_END - inside
    cpu.state.r13 = cpu.state.rdi - 8
    assert cpu.run() == ExitReason.EXCEPTION
    assert (cpu.state.vector, cpu.state.error_code & 2, cpu.state.cr2) == (PF, 2, MAPPED_END)
    assert box.read(MAPPED_END - 8) == 0


def test_a_store_within_a_missing_page_faults_where_it_is(box: Sandbox) -> None:
    for address, instruction in (
        (MAPPED_END, "movups [rdi], xmm0"),
        (MAPPED_END + 3, "movdqu [rdi], xmm0"),
        (MAPPED_END + 16, "movaps [rdi], xmm0"),
        (MAPPED_END + 5, "mov [rdi], rax"),
        (MAPPED_END + 12, "movss [rdi], xmm0"),
    ):
        cpu = box.cpu(assemble(f"{instruction}; syscall"))
        cpu.state.rdi = address
        assert cpu.run() == ExitReason.EXCEPTION
        assert cpu.state.cr2 == address
