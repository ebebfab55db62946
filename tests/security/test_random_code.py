"""Random instructions that really run, in the kernel of a PVH guest and of a PV guest: for some milliseconds the engine and the handlers of
its exits have what they make of them. Faults lead to the next piece of code. The domain may end by it, the host does not notice.
"""

from __future__ import annotations

import os
import struct
import time
from collections import Counter

import pytest
from hypothesis import given, note, seed, settings
from hypothesis import strategies as st

from pyxen.hypervisor.hvm import msr
from pyxen.hypervisor.hypercall_table import HYPERCALLS
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.security.campaign import LONG, SEED, SETTINGS
from tests.security.octets import Octets, octets
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import SmallDomain, new_machine

EXAMPLES = int(os.environ.get("PYXEN_EXAMPLES", "10000" if LONG else "40"))
RUN_SECONDS = 0.01
PIECES = 24
CODE = 0x1000
APIC = 0xFEE00000
MSRS = (*msr._TABLE, *range(0x800, 0x840), 0x80B, 0x830, 0x83F, 0x832, 0x838, 0x1B, 0xC0000080)
#: sti, cli, hlt, iret, popf, pushf, int3, into, ud2, leave, ret, call $+5, fninit, emms, wbinvd, invd, clts, cpuid, rdtsc, rdtscp, syscall,
#: sysenter, sysexit, sysret, swapgs, xgetbv, monitor, mwait, vmcall, vmmcall, vmlaunch, vmrun, lock ud, endbr, pause, loop $, sti and hlt,
#: int1, int n, in, out, ins, outs, rep ins, rep outs, rep stos
_PLAIN = """fb fa f4 cf 9d 9c cc ce 0f0b c9 c3 e800000000 dbe3 0f77 0f09 0f08 0f06 0fa2 0f31 0f01f9 0f05 0f34 0f35 0f07 0f01f8 0f01d0
 0f01c8 0f01c9 0f01c1 0f01d9 0f01c2 0f01d8 f00f0b f30f1efa f390 e2fe fbf4 f1 cd80 cdff ee ec ef ed 6c 6e f36d f36f f3aa f3ab"""
PLAIN = tuple(bytes.fromhex(text) for text in _PLAIN.split())
#: lgdt, lidt, sgdt, invlpg, lmsw, smsw, lldt, ltr, str, fxsave, fxrstor, ldmxcsr, cmpxchg8b, mov to and from control and debug registers,
#: with a ModRM octet that follows.
_WITH_MODRM = "0f01 0f00 0fae 0fc7 0f20 0f22 0f21 0f23 8e 8c ff 8f f7 0fb1 0fc1 0fba d9 dd db 0f10 0f11 0f29 660f7f 0f2b 0fe7 0f18"
WITH_MODRM = tuple(bytes.fromhex(text) for text in _WITH_MODRM.split())
#: A fault goes on with the next piece.
PIECE = 16
WITH_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17, 21))
HANDLERS, IDT, GDT, POINTERS, STACK = 0x2000, 0x3000, 0x4000, 0x5000, 0x7000
#: add esp, 4 (the error code); and [esp], -16; add [esp], 16; iret
PVH_SKIP_CODE, PVH_HANDLER = bytes.fromhex("83c404"), bytes.fromhex("832424f0 83042410 cf")
#: pop rcx; pop r11; add rsp, 8 (the error code); and [rsp], -16; add [rsp], 16; push 0; push rcx; push r11; push rax; HYPERVISOR_iret
PV_POP, PV_SKIP_CODE = bytes.fromhex("59415b"), bytes.fromhex("4883c408")
PV_HANDLER = bytes.fromhex("48832424f0 4883042410 6a00 51 4153 50 b817000000 0f05")


def _word(dice: Octets, code: int) -> int:
    return dice.choice((0, 1, APIC + dice.randrange(64) * 16, code + dice.randrange(512), 0x8000, 0xFFFFFFFF, dice.getrandbits(32)))


def random_code(dice: Octets, code: int) -> bytes:
    """For a kernel whose code is at linear address ``code``: register loads, device accesses, system instructions, and anything."""
    pieces: list[bytes] = []
    for _ in range(PIECES):
        kind = dice.randrange(10)
        if kind < 3:  # mov reg, imm32
            pieces.append(bytes([0xB8 + dice.randrange(8)]) + struct.pack("<I", _word(dice, code)))
        elif kind == 3:  # rdmsr, wrmsr
            pieces.append(b"\xb9" + struct.pack("<I", dice.choice(MSRS)) + dice.choice((b"\x0f\x30", b"\x0f\x32")))
        elif kind == 4:  # a hypercall
            number = b"\xb8" + struct.pack("<I", dice.choice(HYPERCALLS).number)
            pieces.append(
                number + b"\xbb" + bytes([dice.randrange(12), 0, 0, 0]) + dice.choice((b"\x0f\x01\xc1", b"\x0f\x01\xd9", b"\x0f\x05"))
            )
        elif kind == 5:  # mov [disp32], eax and mov eax, [disp32]
            pieces.append(dice.choice((b"\xa3", b"\xa1")) + struct.pack("<I", _word(dice, code)))
        elif kind < 8:
            pieces.append(dice.choice(PLAIN))
        elif kind == 8:
            pieces.append(dice.choice(WITH_MODRM) + dice.randbytes(1 + dice.randrange(6)))
        else:
            pieces.append(dice.randbytes(1 + dice.randrange(8)))
    return b"".join(piece.ljust(PIECE, b"\x90") for piece in pieces) + b"\xeb\xfe"


def _start_pvh(machine: Hypervisor, dice: Octets) -> SmallHvmDomain:
    """In protected mode, with descriptor tables of its own: mov esp, STACK; lgdt; lidt; jmp far 8:next; mov ds, es and ss, 16."""
    guest = SmallHvmDomain(machine, vcpus=2)
    guest.write(HANDLERS, PVH_HANDLER)
    guest.write(HANDLERS + 32, PVH_SKIP_CODE + PVH_HANDLER)
    handlers = (HANDLERS + 32 * (vector in WITH_ERROR_CODE) for vector in range(256))
    guest.write(IDT, b"".join(struct.pack("<HHHH", handler, 8, 0x8E00, 0) for handler in handlers))
    guest.put("3Q", 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF, at=GDT)
    guest.write(POINTERS, struct.pack("<HIxxHI", 23, GDT, 2047, IDT))
    begin = bytes.fromhex("bc") + struct.pack("<I", STACK) + bytes.fromhex("0f0115") + struct.pack("<I", POINTERS)
    begin += bytes.fromhex("0f011d") + struct.pack("<I", POINTERS + 8) + b"\xea" + struct.pack("<IH", CODE + 26, 8)
    begin += bytes.fromhex("66b81000 8ed8 8ec0 8ed0")
    code = random_code(dice, CODE)
    note(code.hex())
    guest.write(CODE, begin.ljust(3 * PIECE, b"\x90") + code)
    guest.dom0.set_hvm_context(guest.domid, CODE, 0)
    guest.dom0.unpause_domain(guest.domid)
    return guest


def _start_pv(machine: Hypervisor, dice: Octets) -> SmallDomain:
    guest = SmallDomain(machine, vcpus=2)
    guest.write(guest.at(2), PV_POP + PV_HANDLER)
    guest.write(guest.at(2, 64), PV_POP + PV_SKIP_CODE + PV_HANDLER)
    entries = (
        struct.pack("<BBHIQ", vector, vector % 4 | vector % 5 // 4 << 2, 0xE033, 0, guest.at(2, 64 * (vector in WITH_ERROR_CODE)))
        for vector in range(256)
    )
    guest.write(guest.at(5), b"".join(entries) + bytes(16))
    begin = b"\x48\xbf" + struct.pack("<Q", guest.at(5)) + bytes.fromhex("31c0 0f05")  # HYPERVISOR_set_trap_table
    code = random_code(dice, guest.at(1) & 0xFFFFFFFF)
    note(code.hex())
    guest.start(begin.ljust(PIECE, b"\x90") + code, stack_pfn=8)
    return guest


def run(kind: str, dice: Octets) -> str:
    """-> how the guest ended, or that it went on."""
    machine = new_machine()
    try:
        free = machine.memory.free_frames
        victim = SmallDomain(machine)
        secret = bytes(range(256)) * 16
        victim.write(victim.at(1), secret)
        guest = _start_pvh(machine, dice) if kind == "pvh" else _start_pv(machine, dice)
        end = time.monotonic() + RUN_SECONDS
        while time.monotonic() < end and not guest.domain.is_shut_down:
            time.sleep(0.001)
        cause = guest.dom0.domain_info(guest.domid).crash_cause
        guest.dom0.pause_domain(guest.domid)
        invariants.check(machine)
        assert victim.read(victim.at(1), 4096) == secret
        for domid in (guest.domid, victim.domid):
            machine.dom0.destroy_domain(domid)
        log = machine.dom0.read_console_ring()
        assert "internal error" not in log and "INTERNAL_ERROR" not in log, log
        assert machine.memory.free_frames == free
        return cause
    finally:
        machine.close()


@pytest.mark.timeout(4 * 3600 if LONG else 600)
@pytest.mark.parametrize("kind", ["pvh", "pv"])
def test_random_code(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    ends: Counter[str] = Counter()

    @seed(SEED)
    @settings(SETTINGS, max_examples=EXAMPLES)
    @given(octets(199), st.integers(0, 3))
    def property_(dice: Octets, repeat: int) -> None:
        for _ in range(1 + repeat // 3):
            cause = run(kind, dice)
            ends[" ".join(word for word in cause.split(":")[1].split()[:3]) if ":" in cause else cause or "goes on"] += 1

    property_()
    assert len(ends) > 1, f"all ended alike: {ends}"
    if LONG:
        with capsys.disabled():
            print(f"\n{kind}: {ends.total()} guests of random code; how they ended: {dict(ends.most_common(12))}")
