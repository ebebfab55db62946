"""Emulated writes to page tables do what the engine does with the same instruction on ordinary memory: content, registers and flags."""

from __future__ import annotations

import random
import struct

import pytest

from pyxen.abi import xen
from pyxen.hypervisor.dom0_interface import ShutdownReason
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_table_writes import AF, CF, OF, PF, SF, ZF
from tests.unit.hypervisor.machine import MASK64, SmallDomain

ALL = CF | PF | AF | ZF | SF | OF
LOGIC = ALL & ~AF
CODE_PFN, PLAIN_PFN, RESULT_PFN, STACK_PFN = 10, 2, 40, 5
FIRST_SLOT = 128
PREFIXES = {8: b"\x48", 4: b"", 2: b"\x66", 1: b""}


def instructions(dice: random.Random) -> list[tuple[str, int, bytes, int]]:
    """(name, size, octets, flags that the manual defines): with the destination at [RBX] and the source in RCX, if it is a register."""
    made = []
    for size, prefix in PREFIXES.items():
        small = size == 1
        for name, opcode, flags in (
            ("mov", 0x89, ALL),
            ("xchg", 0x87, ALL),
            ("add", 0x01, ALL),
            ("or", 0x09, LOGIC),
            ("and", 0x21, LOGIC),
            ("sub", 0x29, ALL),
            ("xor", 0x31, LOGIC),
        ):
            made.append((name, size, prefix + bytes([opcode - small, 0x0B]), flags))
        made.append(("lock cmpxchg", size, b"\xf0" + prefix + bytes([0x0F, 0xB1 - small, 0x0B]), ALL))
        made.append(("lock xadd", size, b"\xf0" + prefix + bytes([0x0F, 0xC1 - small, 0x0B]), ALL))
        if not small:
            immediate = dice.randrange(0, 256, 2)
            for extension, flags in ((0, ALL), (1, LOGIC), (4, LOGIC), (5, ALL), (6, LOGIC)):
                made.append((f"group 1 /{extension}", size, prefix + bytes([0x83, extension << 3 | 3, immediate]), flags))
            for extension in (5, 6, 7):
                made.append((f"bit /{extension}", size, prefix + bytes([0x0F, 0xBA, extension << 3 | 3, dice.randrange(1, 8 * size)]), CF))
        value = dice.getrandbits(31 if size > 2 else 8 * size) & ~1
        made.append(("mov imm", size, prefix + (b"\xc6" if small else b"\xc7") + b"\x03" + value.to_bytes(min(size, 4), "little"), ALL))
    made += [("movnti", 8, b"\x48\x0f\xc3\x0b", ALL), ("movnti", 4, b"\x0f\xc3\x0b", ALL)]
    return made


def one_run(octets: bytes, address: int, rax: int, rcx: int, flags: int, result: int) -> bytes:
    """Code: load registers and flags, execute, store RAX, RCX and RFLAGS."""
    return (
        b"\x48\xbb"
        + struct.pack("<Q", address)
        + b"\x48\xb9"
        + struct.pack("<Q", rcx)
        + b"\x48\xb8"
        + struct.pack("<Q", rax)
        + b"\x68"
        + struct.pack("<I", flags)  # push
        + b"\x9d"  # popf
        + octets
        + b"\x9c\x5a"  # pushf, pop rdx
        + b"\x48\xbe"
        + struct.pack("<Q", result)
        + b"\x48\x89\x06\x48\x89\x4e\x08\x48\x89\x56\x10"  # mov [rsi], rax; [rsi + 8], rcx; [rsi + 16], rdx
    )


def shut_down() -> bytes:
    return (
        b"\xbf\x02\x00\x00\x00\x48\xbe"
        + struct.pack("<Q", SmallDomain.at(1))
        + b"\xb8"
        + struct.pack("<I", xen.HYPERVISOR_sched_op)
        + b"\x0f\x05\xeb\xfe"
    )


@pytest.mark.parametrize("seed", range(4))
def test_as_the_engine_does(machine: Hypervisor, seed: int) -> None:
    dice = random.Random(seed)
    guest = SmallDomain(machine, pages=96)
    guest.domain.vm_assist |= 1 << xen.VMASST_TYPE_writable_pagetables
    table = guest.at(len(guest.mfns) - 1)
    cases = instructions(dice)
    code = b""
    offsets = []
    for index, (name, size, octets, _) in enumerate(cases):
        # Never present, before or after: so no entry is refused.
        offset = dice.randrange(1, 8) if size == 1 else dice.randrange(0, 8, size)
        keep_even = MASK64 if size == 1 or offset else MASK64 - 1
        before, rax, rcx = dice.getrandbits(64) & ~1, dice.getrandbits(64) & keep_even, dice.getrandbits(64) & keep_even
        if "cmpxchg" in name and dice.random() < 0.5:
            rax = before >> 8 * offset
        flags = dice.getrandbits(12) & ALL | 2
        offsets.append(offset)
        guest.words[(guest.mfns[PLAIN_PFN] << 9) + index] = guest.words[(guest.l1 << 9) + FIRST_SLOT + index] = before
        for where, result in ((guest.at(PLAIN_PFN), 0), (table + 8 * FIRST_SLOT, 24)):
            code += one_run(octets, where + 8 * index + offset, rax, rcx, flags, guest.at(RESULT_PFN, 48 * index + result))
    guest.start(code + shut_down(), pfn=CODE_PFN, stack_pfn=STACK_PFN)
    assert guest.wait_for_shutdown().shutdown_reason is ShutdownReason.POWEROFF, guest.domain.crash_cause
    for index, (name, size, _, defined) in enumerate(cases):
        what = f"seed {seed}: {name}, {size} octets at {offsets[index]}"
        plain, emulated = (guest.get("3Q", at=guest.at(RESULT_PFN, 48 * index + result)) for result in (0, 24))
        # The engine zero-extends RAX even when a 32-bit comparison succeeds; a processor leaves it alone then.
        kept = 0xFFFFFFFF if name == "lock cmpxchg" and size == 4 else MASK64
        assert plain[0] & kept == emulated[0] & kept and plain[1] == emulated[1], what
        assert plain[2] & defined == emulated[2] & defined, what
        assert guest.words[(guest.mfns[PLAIN_PFN] << 9) + index] == guest.words[(guest.l1 << 9) + FIRST_SLOT + index], what


def test_only_with_the_assistance(guest: SmallDomain) -> None:
    """Else the write is the guest's page fault, for which it has no handler."""
    table = guest.at(len(guest.mfns) - 1)
    guest.start(
        one_run(b"\x48\x89\x0b", table + 8 * FIRST_SLOT, 0, 0, 2, guest.at(RESULT_PFN)) + shut_down(), pfn=CODE_PFN, stack_pfn=STACK_PFN
    )
    assert "exception 14" in guest.wait_for_shutdown().crash_cause
    assert not guest.words[(guest.l1 << 9) + FIRST_SLOT]


@pytest.mark.parametrize("entry", ["its own table, writable", "a superpage bit", "another domain's frame"])
def test_refused_entries_fault(machine: Hypervisor, entry: str) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    guest.domain.vm_assist |= 1 << xen.VMASST_TYPE_writable_pagetables
    value = {
        "its own table, writable": guest.l1 << 12 | 3,
        "a superpage bit": guest.mfns[0] << 12 | 0x81,
        "another domain's frame": other.mfns[0] << 12 | 1,
    }[entry]
    table = guest.at(len(guest.mfns) - 1)
    code = one_run(b"\x48\x89\x0b", table + 8 * FIRST_SLOT, 0, value, 2, guest.at(RESULT_PFN))
    guest.start(code + shut_down(), pfn=CODE_PFN, stack_pfn=STACK_PFN)
    assert "exception 14 (error code 0x3" in guest.wait_for_shutdown().crash_cause
    assert not guest.words[(guest.l1 << 9) + FIRST_SLOT]
