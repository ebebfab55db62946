"""Kernels for PVH domains: ELF files of 64 and of 32 bits with the note PHYS32_ENTRY, and what is wrong with others."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from pyxen.toolstack.builder.errors import BuilderError, KernelFormatError, KernelUnsupportedError, MemoryTooSmallError
from pyxen.toolstack.builder.pvh_builder import plan_pvh_domain
from pyxen.toolstack.builder.pvh_kernel import PvhKernel, open_pvh_kernel
from tests.unit.builder.elf_maker import Elf, Load, number, text

PHYS32_ENTRY = 18
START, ENTRY = 0x100000, 0x100010
MIB = 1 << 20
Open = Callable[[bytes], PvhKernel]

Header = tuple[int, int, int, int, int]  # type, address, bytes in the file, bytes in memory, offset


def elf32(
    loads: list[tuple[int, bytes, int]] | None = None,
    notes: bytes | None = None,
    *,
    entry: int = 0,
    machine: int = 3,
    phentsize: int = 32,
    offsets: dict[int, int] | None = None,
) -> bytes:
    """Each load: physical address, content, octets in memory. ``offsets``: where another place in the file is named for a load."""
    loads = [(START, b"\xf4" * 64, 64)] if loads is None else loads
    notes = number(PHYS32_ENTRY, ENTRY, 4) if notes is None else notes
    body, table = b"", b""
    start = 52 + 32 * (len(loads) + 1)
    for index, (address, content, size) in enumerate(loads):
        offset = (offsets or {}).get(index, start + len(body))
        table += struct.pack("<8I", 1, offset, address, address, len(content), size, 7, 4096)
        body += content
    table += struct.pack("<8I", 4, start + len(body), 0, 0, len(notes), len(notes), 4, 4)
    ident = b"\x7fELF\x01\x01\x01".ljust(16, b"\0")
    header = struct.pack("<16sHHIIIIIHHHHHH", ident, 2, machine, 1, entry, 52, 0, 0, 52, phentsize, len(loads) + 1, 40, 0, 0)
    return header + table + body + notes


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_content(content: bytes) -> PvhKernel:
        path = tmp_path / "kernel"
        path.write_bytes(content)
        return open_pvh_kernel(path, cache_directory=tmp_path / "cache")

    return open_content


def test_a_32_bit_kernel(opened: Open) -> None:
    kernel = opened(elf32([(START, b"\x90" * 0x25, 0x1000), (START + 0x1000, b"second", 0x2000)]))
    assert [(part.start, part.size, bytes(part.data)) for part in kernel.segments] == [
        (START, 0x1000, b"\x90" * 0x25),
        (START + 0x1000, 0x2000, b"second"),
    ]
    assert (kernel.start, kernel.end, kernel.entry) == (START, START + 0x3000, ENTRY)


def test_a_64_bit_kernel(opened: Open) -> None:
    kernel = opened(Elf([Load(b"\xf4" * 64, START)], number(PHYS32_ENTRY, ENTRY, 8)).build())
    assert (kernel.start, kernel.end, kernel.entry) == (START, START + 64, ENTRY)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (elf32(notes=text(6, "linux")), KernelUnsupportedError, "no PVH entry point"),
        (elf32(notes=b""), KernelUnsupportedError, "no PVH entry point"),
        (elf32(notes=number(PHYS32_ENTRY, 0x90000, 4)), KernelFormatError, "PVH entry point 0x90000 lies outside of it"),
        (elf32(notes=number(PHYS32_ENTRY, 0xFFFFFFFF, 4)), KernelFormatError, "PVH entry point 0xffffffff lies outside"),
        (elf32(notes=number(PHYS32_ENTRY, 1 << 40, 8)), KernelFormatError, "PVH entry point 0x10000000000 lies outside"),
        (elf32(notes=number(PHYS32_ENTRY, START, 4) * 2 + b"\xff" * 12), KernelFormatError, "note is longer than the table"),
        (elf32([]), KernelFormatError, "nothing to load"),
        (elf32([(START, b"a" * 64, 64), (START + 32, b"b" * 64, 64)]), KernelFormatError, "segments overlap at 0x100020"),
        (elf32([(START, b"a" * 64, 64), (START, b"b" * 64, 64)], offsets={1: 148}), KernelFormatError, "segments overlap"),
        (elf32([(START, b"a" * 64, 32)]), KernelFormatError, "larger in the file than in memory"),
        (elf32([(0xFFFFF000, b"a" * 64, 0x2000)]), KernelFormatError, "wraps around"),
        (elf32([(START, b"a" * 64, 64)], offsets={0: 1 << 20}), KernelFormatError, "truncated"),
        (elf32(phentsize=56), KernelFormatError, "program headers have 56 bytes each instead of 32"),
        (elf32()[:60], KernelFormatError, "truncated"),
        (elf32()[:40], KernelFormatError, "truncated"),
        (elf32(machine=62), KernelUnsupportedError, "x32"),
        (elf32(machine=40), KernelUnsupportedError, "32-bit Arm"),
        (Elf([Load(b"\xf4" * 64, START)], number(PHYS32_ENTRY, ENTRY, 4), machine=3).build(), KernelUnsupportedError, "64-bit class"),
        (Elf([Load(b"\xf4" * 64, 1 << 33)], number(PHYS32_ENTRY, ENTRY, 4)).build(), KernelFormatError, "beyond 4 GiB"),
    ],
)
def test_bad_kernels(opened: Open, content: bytes, error: type[BuilderError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        opened(content)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("kernel /")


@pytest.mark.parametrize("start", [64 * MIB, 0xF000_0000, 0xFC00_0000])
def test_segments_beyond_the_domains_memory(opened: Open, start: int) -> None:
    """Above its RAM, in the hole for devices, over the ACPI tables."""
    kernel = opened(elf32([(start, b"\xf4" * 64, 4096)], number(PHYS32_ENTRY, start, 4)))
    with pytest.raises(MemoryTooSmallError, match="MiB of memory are too little for kernel"):
        plan_pvh_domain(kernel, None, "", 64 << 10, 1)
