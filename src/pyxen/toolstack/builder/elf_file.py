"""A checked view of a little-endian x86 ELF file, 64-bit or 32-bit: its loadable segments, its sections, nothing else.

Everything in the file is untrusted: a range is checked before it is read, and no size out of the file decides an allocation
before it was checked against the file's own size.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from pyxen.toolstack.builder.byte_source import ByteSource
from pyxen.toolstack.builder.errors import KernelFormatError, KernelUnsupportedError

ELF_MAGIC = b"\x7fELF"
PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
SHT_NOTE, SHT_NOBITS = 7, 8
SHF_ALLOC, SHF_EXECINSTR = 2, 4

_EM_386, _EM_X86_64 = 3, 62
_ET_EXEC, _ET_DYN = 2, 3
_PN_XNUM = 0xFFFF
_MACHINES = {
    2: "SPARC",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "S/390",
    40: "32-bit Arm",
    183: "Arm64",
    243: "RISC-V",
    258: "LoongArch",
}


@dataclass(frozen=True)
class Segment:
    """A program header. Addresses and sizes in bytes. Of what is loaded, ``memory_size >= file_size`` and the physical address does not
    wrap around. Whether the file has these bytes is checked when they are read."""

    kind: int
    flags: int
    offset: int
    virtual_address: int
    physical_address: int
    file_size: int
    memory_size: int


@dataclass(frozen=True)
class Section:
    """A section header. Whether the file has these bytes is checked when they are read."""

    name: bytes
    kind: int
    flags: int
    address: int
    offset: int
    size: int


@dataclass(frozen=True)
class _Class:
    """How the headers of 32- or 64-bit files are laid out. ``segment`` makes a Segment of a program header's fields."""

    bits: int
    machine: int
    header: struct.Struct
    program_header: struct.Struct
    section_header: struct.Struct
    segment: Callable[..., Segment]


_ELF64 = _Class(
    64,
    _EM_X86_64,
    struct.Struct("<16sHHIQQQIHHHHHH"),
    struct.Struct("<IIQQQQQQ"),
    struct.Struct("<IIQQQQIIQQ"),
    lambda kind, flags, offset, virtual, physical, in_file, in_memory, _: Segment(
        kind, flags, offset, virtual, physical, in_file, in_memory
    ),
)
_ELF32 = _Class(
    32,
    _EM_386,
    struct.Struct("<16sHHIIIIIHHHHHH"),
    struct.Struct("<IIIIIIII"),
    struct.Struct("<IIIIIIIIII"),
    lambda kind, offset, virtual, physical, in_file, in_memory, flags, _: Segment(
        kind, flags, offset, virtual, physical, in_file, in_memory
    ),
)


class ElfFile:
    """The headers of an ELF file, checked. ``bits``: 64 or 32. Raises KernelFormatError and KernelUnsupportedError."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        ident = bytes(source.read(0, 16, "ELF header"))
        if ident[:4] != ELF_MAGIC:
            raise KernelFormatError("not an ELF file")
        if ident[5] != 1:
            raise KernelUnsupportedError("a big-endian ELF file; a kernel for x86-64 is needed")
        machine = struct.unpack("<H", source.read(18, 2, "ELF header"))[0]
        if machine not in (_EM_386, _EM_X86_64):
            name = _MACHINES.get(machine, f"ELF machine number {machine}")
            raise KernelUnsupportedError(f"a file for another architecture ({name}); a kernel for x86-64 is needed")
        if ident[4] not in (1, 2):
            raise KernelFormatError(f"corrupt: its ELF class is {ident[4]}, neither 32 nor 64 bits")
        self._form = _ELF64 if ident[4] == 2 else _ELF32
        if machine != self._form.machine:
            raise KernelUnsupportedError(
                "an x86-64 ELF file of the 32-bit class (x32); a 64-bit one is needed"
                if machine == _EM_X86_64
                else "an i386 ELF file of the 64-bit class, which no processor runs"
            )
        self.bits = self._form.bits
        fields = self._form.header.unpack(source.read(0, self._form.header.size, "ELF header"))
        (_, elf_type, _, _, self.entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx) = fields
        if elf_type not in (_ET_EXEC, _ET_DYN):
            raise KernelUnsupportedError(f"an ELF file of type {elf_type}, not an executable; a kernel image (vmlinux, vmlinuz) is needed")
        self.segments = self._read_segments(phoff, phentsize, phnum)
        self.sections = self._read_sections(shoff, shentsize, shnum, shstrndx)

    def content(self, part: Segment | Section, what: str) -> memoryview:
        """The bytes that the file has for this segment or section."""
        size = part.file_size if isinstance(part, Segment) else part.size
        return self.source.read(part.offset, size, what)

    def _read_segments(self, offset: int, entry_size: int, count: int) -> list[Segment]:
        if count == _PN_XNUM:
            raise KernelFormatError("corrupt: it has more than 65534 ELF program headers")
        form = self._form.program_header
        if count and entry_size != form.size:
            raise KernelFormatError(f"corrupt: its ELF program headers have {entry_size} bytes each instead of {form.size}")
        table = self.source.read(offset, count * form.size, "ELF program headers")
        segments = [self._form.segment(*fields) for fields in form.iter_unpack(table)]
        wanted = [segment for segment in segments if segment.kind in (PT_LOAD, PT_NOTE)]
        for segment in wanted:
            self._check_segment(segment)
        return wanted

    def _check_segment(self, segment: Segment) -> None:
        if segment.kind != PT_LOAD:
            return
        if segment.memory_size < segment.file_size:
            raise KernelFormatError("corrupt: an ELF segment is larger in the file than in memory")
        if segment.physical_address + segment.memory_size > 1 << self.bits:
            raise KernelFormatError("corrupt: an ELF segment wraps around the end of the address space")

    def _read_sections(self, offset: int, entry_size: int, count: int, names_index: int) -> list[Section]:
        if offset == 0 or count == 0:
            return []
        form = self._form.section_header
        if entry_size != form.size:
            raise KernelFormatError(f"corrupt: its ELF section headers have {entry_size} bytes each instead of {form.size}")
        table = list(form.iter_unpack(self.source.read(offset, count * form.size, "ELF section headers")))
        names = b""
        if names_index < count and table[names_index][1] not in (0, SHT_NOBITS):
            names = bytes(self.source.read(table[names_index][4], table[names_index][5], "ELF section names"))
        sections = []
        for name, kind, flags, address, start, size, *_ in table:
            if kind == 0:
                continue
            end = names.find(b"\0", name)
            sections.append(Section(names[name : end if end >= 0 else len(names)], kind, flags, address, start, size))
        return sections
