"""Small ELF files, and bzImages around them, made byte by byte."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

ALLOC, EXEC = 2, 4
R, W, X = 4, 2, 1
LINUX_BASE = 0xFFFFFFFF80000000


@dataclass
class Load:
    data: bytes
    paddr: int
    memsz: int | None = None
    flags: int = R | W | X
    vaddr: int | None = None
    offset: int = 0  # filled in


@dataclass
class Sect:
    name: str
    kind: int
    flags: int
    data: bytes = b""
    address: int = 0
    inside: tuple[int, int, int] | None = None  # (index of load, first, size)


def note(kind: int, description: bytes, owner: bytes = b"Xen\0") -> bytes:
    return (
        struct.pack("<III", len(owner), len(description), kind)
        + owner.ljust(len(owner) + 3 & ~3, b"\0")
        + description.ljust(len(description) + 3 & ~3, b"\0")
    )


def number(kind: int, value: int, size: int = 8) -> bytes:
    return note(kind, value.to_bytes(size, "little"))


def text(kind: int, value: str) -> bytes:
    return note(kind, value.encode() + b"\0")


def standard_notes(*, base: int = LINUX_BASE, entry: int | None = None, extra: bytes = b"") -> bytes:
    content = text(6, "linux") + text(7, "2.6") + text(5, "xen-3.0") + number(3, base) + text(8, "generic")
    return content + (number(1, entry) if entry is not None else b"") + extra


@dataclass
class Elf:
    loads: Sequence[Load]
    notes: bytes | None = None
    sections: list[Sect] = field(default_factory=list)
    entry: int = 0
    machine: int = 62
    elf_class: int = 2
    elf_type: int = 2

    def build(self) -> bytes:
        headers = len(self.loads) + (self.notes is not None)
        body = bytearray(64 + 56 * headers)
        program = b""
        for load in self.loads:
            body += bytes(-len(body) % 16)
            load.offset = len(body)
            memsz = load.memsz if load.memsz is not None else len(load.data)
            vaddr = load.vaddr if load.vaddr is not None else load.paddr
            program += struct.pack("<IIQQQQQQ", 1, load.flags, load.offset, vaddr, load.paddr, len(load.data), memsz, 4096)
            body += load.data
        if self.notes is not None:
            program += struct.pack("<IIQQQQQQ", 4, R, len(body), 0, 0, len(self.notes), len(self.notes), 4)
            body += self.notes
        section_table, count = b"", 0
        if self.sections:
            names, section_table = b"\0", bytes(64)
            for section in [*self.sections, Sect(".shstrtab", 3, 0)]:
                name = len(names)
                names += section.name.encode() + b"\0"
                if section.name == ".shstrtab":
                    section.data = names
                if section.inside is not None:
                    index, first, size = section.inside
                    offset = self.loads[index].offset + first
                else:
                    offset, size = len(body), len(section.data)
                    body += section.data
                section_table += struct.pack("<IIQQQQIIQQ", name, section.kind, section.flags, section.address, offset, size, 0, 0, 1, 0)
            count = len(self.sections) + 2
        shoff = len(body) if section_table else 0
        body += section_table
        ident = b"\x7fELF" + bytes([self.elf_class, 1, 1]) + bytes(9)
        body[:64] = struct.pack(
            "<16sHHIQQQIHHHHHH",
            ident,
            self.elf_type,
            self.machine,
            1,
            self.entry,
            64,
            shoff,
            0,
            64,
            56,
            headers,
            64,
            count,
            max(count - 1, 0),
        )
        body[64 : 64 + len(program)] = program
        return bytes(body)


def small_kernel(**notes: int | bytes) -> bytes:
    """A kernel of some pages at 16 MiB, as Linux's begins."""
    code = b"\xf4" * 5000
    loads = [Load(code, 0x1000000, flags=R | X), Load(b"data" * 100, 0x1002000, memsz=0x3000, flags=R | W)]
    return Elf(loads, standard_notes(entry=LINUX_BASE + 0x1000010, **notes)).build()  # type: ignore[arg-type]


def bz_image(payload: bytes, *, version: int = 0x20F, setup_sectors: int = 3) -> bytes:
    """A bzImage with this payload: real-mode part, 64 bytes of protected-mode stub, payload."""
    image = bytearray((setup_sectors + 1) * 512)
    protected = bytes(64) + payload
    protected += bytes(-len(protected) % 16)
    image[0x1F1] = setup_sectors
    struct.pack_into("<I", image, 0x1F4, len(protected) // 16)
    struct.pack_into("<H", image, 0x1FE, 0xAA55)
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    return bytes(image + protected)
