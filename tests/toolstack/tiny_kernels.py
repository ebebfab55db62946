"""PV64 kernels of a few instructions, for what a domain can do to its toolstack."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.unit.builder.elf_maker import LINUX_BASE, Elf, Load, R, W, X, standard_notes

_LOAD_ADDRESS = 0x1000000

LOOP = b"\xeb\xfe"  # jmp $: with events masked, as every domain starts
CRASH = b"\x0f\x0b"  # ud2, and there is no trap table
#: lea rsi, [rip + 14]; mov edi, SCHEDOP_poll; mov eax, HYPERVISOR_sched_op; syscall; jmp back; a sched_poll of no ports and no timeout
IDLE = b"\x48\x8d\x35\x0e\x00\x00\x00\xbf\x03\x00\x00\x00\xb8\x1d\x00\x00\x00\x0f\x05\xeb\xeb" + bytes(24)


def shutdown(reason: int) -> bytes:
    """lea rsi, [rip + 14]; mov edi, SCHEDOP_shutdown; mov eax, HYPERVISOR_sched_op; syscall; jmp $; the reason"""
    return b"\x48\x8d\x35\x0e\x00\x00\x00\xbf\x02\x00\x00\x00\xb8\x1d\x00\x00\x00\x0f\x05\xeb\xfe" + struct.pack("<I", reason)


def write_kernel(folder: Path, code: bytes, name: str = "kernel") -> Path:
    """An ELF file that runs ``code``."""
    path = folder / name
    load = Load(code.ljust(64, b"\xcc"), _LOAD_ADDRESS, memsz=4096, flags=R | W | X)
    path.write_bytes(Elf([load], standard_notes(entry=LINUX_BASE + _LOAD_ADDRESS)).build())
    return path
