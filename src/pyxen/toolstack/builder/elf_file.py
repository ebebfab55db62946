"""A checked view of a 64-bit little-endian x86 ELF file: its loadable segments, its sections, nothing else.

Everything in the file is untrusted: a range is checked before it is read, and no size out of the file decides an allocation
before it was checked against the file's own size.
"""

from __future__ import annotations

import struct
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

_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_PHDR = struct.Struct("<IIQQQQQQ")
_SHDR = struct.Struct("<IIQQQQIIQQ")

_ADDRESS_LIMIT = 1 << 64


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


class ElfFile:
    """The headers of an ELF file, checked. Raises KernelFormatError and KernelUnsupportedError."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        ident = bytes(source.read(0, 16, "ELF header"))
        if ident[:4] != ELF_MAGIC:
            raise KernelFormatError("not an ELF file")
        if ident[5] != 1:
            raise KernelUnsupportedError("a big-endian ELF file; a kernel for x86-64 is needed")
        machine = struct.unpack("<H", source.read(18, 2, "ELF header"))[0]
        if machine == _EM_386:
            raise KernelUnsupportedError("a 32-bit x86 kernel; only 64-bit PV kernels can run, use the amd64 one")
        if machine != _EM_X86_64:
            name = _MACHINES.get(machine, f"ELF machine number {machine}")
            raise KernelUnsupportedError(f"a file for another architecture ({name}); a kernel for x86-64 is needed")
        if ident[4] != 2:
            raise KernelUnsupportedError("an x86-64 ELF file of the 32-bit class (x32); a 64-bit one is needed")
        fields = _EHDR.unpack(source.read(0, _EHDR.size, "ELF header"))
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
        if count and entry_size != _PHDR.size:
            raise KernelFormatError(f"corrupt: its ELF program headers have {entry_size} bytes each instead of {_PHDR.size}")
        table = self.source.read(offset, count * _PHDR.size, "ELF program headers")
        segments = []
        for kind, flags, start, vaddr, paddr, file_size, memory_size, _align in _PHDR.iter_unpack(table):
            if kind not in (PT_LOAD, PT_NOTE):
                continue
            segment = Segment(kind, flags, start, vaddr, paddr, file_size, memory_size)
            self._check_segment(segment)
            segments.append(segment)
        return segments

    def _check_segment(self, segment: Segment) -> None:
        if segment.kind != PT_LOAD:
            return
        if segment.memory_size < segment.file_size:
            raise KernelFormatError("corrupt: an ELF segment is larger in the file than in memory")
        if segment.physical_address + segment.memory_size > _ADDRESS_LIMIT:
            raise KernelFormatError("corrupt: an ELF segment wraps around the end of the address space")

    def _read_sections(self, offset: int, entry_size: int, count: int, names_index: int) -> list[Section]:
        if offset == 0 or count == 0:
            return []
        if entry_size != _SHDR.size:
            raise KernelFormatError(f"corrupt: its ELF section headers have {entry_size} bytes each instead of {_SHDR.size}")
        table = list(_SHDR.iter_unpack(self.source.read(offset, count * _SHDR.size, "ELF section headers")))
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
