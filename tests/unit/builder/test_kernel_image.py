"""Opening kernel files: each container and compression, and a clear line for each file that is none."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import lz4.block
import lz4.frame
import lzokay
import pytest
import zstandard

from pyxen.toolstack.builder import KernelFileError, KernelFormatError, KernelImage, KernelUnsupportedError, kernel_image, open_kernel
from pyxen.toolstack.builder.decompression import decompress
from tests.unit.builder.elf_maker import (
    ALLOC,
    EXEC,
    LINUX_BASE,
    Elf,
    Load,
    R,
    Sect,
    W,
    X,
    bz_image,
    note,
    number,
    small_kernel,
    standard_notes,
    text,
)

VIRTUAL = LINUX_BASE + 0x1000000


def lz4_legacy(data: bytes) -> bytes:
    """The format that Linux uses, in blocks of 8 MiB at most; smaller ones here, so that there are several."""
    packed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 2048):
        block = lz4.block.compress(data[start : start + 2048], store_size=False)
        packed += len(block).to_bytes(4, "little") + block
    return packed


def lzop(data: bytes) -> bytes:
    """An lzop file with the checksums that lzop makes by default."""
    header = struct.pack(">HHHBBIIIIB", 0x1030, 0x20A0, 0x0940, 1, 5, 0x03000001 | 2, 0o100644, 0, 0, 0)
    packed = b"\x89LZO\x00\r\n\x1a\n" + header + zlib.adler32(header).to_bytes(4, "big")
    for start in range(0, len(data), 4096):
        block = data[start : start + 4096]
        small = lzokay.compress(block)
        if len(small) < len(block):
            packed += struct.pack(">IIII", len(block), len(small), zlib.adler32(block), zlib.adler32(small)) + small
        else:
            packed += struct.pack(">III", len(block), len(block), zlib.adler32(block)) + block
    return packed + bytes(4)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lambda data: lzma.compress(data, check=lzma.CHECK_CRC32),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "lz4": lz4_legacy,
    "lz4-frame": lambda data: lz4.frame.compress(data, content_checksum=True),
    "zstd": zstandard.ZstdCompressor(write_content_size=False).compress,
    "lzo": lzop,
}


def with_size(name: str, packed: bytes, data: bytes) -> bytes:
    """Linux appends the unpacked size, but to gzip, which ends with it."""
    return packed if name == "gzip" else packed + len(data).to_bytes(4, "little")


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], KernelImage]:
    def open_content(content: bytes) -> KernelImage:
        path = tmp_path / "kernel"
        path.write_bytes(content)
        return open_kernel(path, cache_directory=tmp_path / "cache")

    return open_content


def check_small_kernel(kernel: KernelImage) -> None:
    assert kernel.entry == VIRTUAL + 0x10
    assert [(s.start, s.size) for s in kernel.segments] == [(VIRTUAL, 5000), (VIRTUAL + 0x2000, 0x3000)]
    assert bytes(kernel.segments[0].data) == b"\xf4" * 5000
    assert bytes(kernel.segments[1].data) == b"data" * 100


def test_raw_elf(opened: Callable[[bytes], KernelImage]) -> None:
    check_small_kernel(opened(small_kernel()))


@pytest.mark.parametrize("name", PACKERS)
def test_bz_image(opened: Callable[[bytes], KernelImage], name: str) -> None:
    content = small_kernel() + os.urandom(20000) + bytes(200000)  # as Linux appends relocations: not all of the payload is ELF
    check_small_kernel(opened(bz_image(with_size(name, PACKERS[name](content), content))))


def test_bz_image_with_plain_elf(opened: Callable[[bytes], KernelImage]) -> None:
    check_small_kernel(opened(bz_image(small_kernel())))


def test_bz_image_with_default_setup_size(opened: Callable[[bytes], KernelImage]) -> None:
    image = bytearray(bz_image(gzip.compress(small_kernel()), setup_sectors=4))
    image[0x1F1] = 0  # means 4, since ever
    check_small_kernel(opened(bytes(image)))


@pytest.mark.parametrize("name", PACKERS)
def test_packed_elf(opened: Callable[[bytes], KernelImage], name: str) -> None:
    check_small_kernel(opened(PACKERS[name](small_kernel())))


def test_packed_bz_image(opened: Callable[[bytes], KernelImage]) -> None:
    check_small_kernel(opened(gzip.compress(bz_image(gzip.compress(small_kernel())))))


def test_packed_too_often(opened: Callable[[bytes], KernelImage]) -> None:
    content = small_kernel()
    for _ in range(6):
        content = gzip.compress(content)
    with pytest.raises(KernelFormatError, match="packed more than"):
        opened(content)


@pytest.mark.parametrize("name", PACKERS)
def test_bomb(name: str) -> None:
    packed = PACKERS[name](bytes(4 << 20))
    with pytest.raises(KernelFormatError, match="unpacks to more than 1 MiB"):
        decompress(memoryview(packed), 1 << 20)


@pytest.mark.parametrize("name", PACKERS)
def test_truncated_payload(opened: Callable[[bytes], KernelImage], name: str) -> None:
    content = small_kernel() + os.urandom(20000)
    packed = PACKERS[name](content)
    with pytest.raises(KernelFormatError, match=r"kernel .*/kernel: .*(truncated|corrupt)"):
        opened(bz_image(with_size(name, packed[: len(packed) // 2], content)))


@pytest.mark.parametrize("name", PACKERS)
def test_corrupt_payload(opened: Callable[[bytes], KernelImage], name: str) -> None:
    content = small_kernel() + os.urandom(20000)
    packed = bytearray(PACKERS[name](content))
    packed[len(packed) // 2 :] = bytes(len(packed) - len(packed) // 2)
    with pytest.raises(KernelFormatError, match=r"kernel .*/kernel: .*(truncated|corrupt)"):
        opened(bz_image(with_size(name, bytes(packed), content)))


def test_lzo_checksum() -> None:
    """Of a block that is stored as it is, nothing but the checksum tells that it is corrupt."""
    packed = bytearray(lzop(os.urandom(3000)))
    packed[1500] ^= 1
    with pytest.raises(KernelFormatError, match="a checksum does not match"):
        decompress(memoryview(packed), 1 << 20)


def test_payload_of_another_size_than_it_says(opened: Callable[[bytes], KernelImage]) -> None:
    with pytest.raises(KernelFormatError, match="should unpack to 1234 bytes"):
        opened(bz_image(PACKERS["xz"](small_kernel()) + (1234).to_bytes(4, "little")))


def test_truncated_bz_image(opened: Callable[[bytes], KernelImage]) -> None:
    image = bz_image(gzip.compress(small_kernel()))
    with pytest.raises(
        KernelFormatError, match=f"truncated: the bzImage says it has at least {len(image)} bytes, the file has {len(image) - 1}"
    ):
        opened(image[:-1])
    with pytest.raises(KernelFormatError, match="truncated: a bzImage of only 580 bytes"):
        opened(image[:580])


def test_old_boot_protocol(opened: Callable[[bytes], KernelImage]) -> None:
    with pytest.raises(KernelUnsupportedError, match="boot protocol 2.07, which is too old"):
        opened(bz_image(gzip.compress(small_kernel()), version=0x207))


def test_truncated_elf(opened: Callable[[bytes], KernelImage]) -> None:
    content = small_kernel()
    for size in (10, 63, 100, 3000, len(content) - 1):
        with pytest.raises(KernelFormatError, match="truncated"):
            opened(content[:size])


def test_empty(opened: Callable[[bytes], KernelImage]) -> None:
    with pytest.raises(KernelFileError, match="the file is empty"):
        opened(b"")


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match=f"kernel {tmp_path}/vmlinuz: no such file"):
        open_kernel(tmp_path / "vmlinuz")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="is a directory"):
        open_kernel(tmp_path)


def test_fifo_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(KernelFileError, match="not a regular file"):
        open_kernel(tmp_path / "fifo")


def test_path_with_nul(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match="can't be opened"):
        open_kernel(tmp_path / "a\0b")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(small_kernel())
    path.chmod(0)
    with pytest.raises(KernelFileError, match="can't be opened: Permission denied"):
        open_kernel(path)


def elf(**changes: object) -> bytes:
    made = Elf([Load(b"\xf4" * 64, 0x1000000)], standard_notes(entry=VIRTUAL))
    for name, value in changes.items():
        setattr(made, name, value)
    return made.build()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (elf(machine=183), r"another architecture \(Arm64\)"),
        (elf(machine=0x1234), "ELF machine number 4660"),
        (elf(machine=3, elf_class=2), "i386 ELF file of the 64-bit class"),
        (elf(elf_class=1), "x32"),
        (elf(elf_type=1), "ELF file of type 1, not an executable"),
        (elf(notes=None), "no Xen notes in it; a kernel for Xen PV domains is needed: Linux built with CONFIG_XEN_PV"),
        (elf(notes=number(18, 0x1000000, 4)), r"can only run as PVH \(type = 'pvh'\)"),
        (elf(notes=number(3, LINUX_BASE)), "neither a loader nor a guest OS"),
        (elf(notes=text(6, "plan9\x1b[2J") + text(8, "own\x1b[31m") + text(5, "xen-3.0")), r"the loader 'own\\x1b\[31m'"),
        (elf(notes=text(6, "linux") + text(5, "xen-2.0")), "built for Xen version 'xen-2.0'"),
        (elf(notes=standard_notes(extra=text(10, "!teleport"))), "require a feature that Xen does not know: 'teleport'"),
        (elf(notes=standard_notes(extra=text(10, "!auto_translated_physmap"))), "auto_translated_physmap.*use type = 'pvh'"),
        (elf(notes=standard_notes(extra=text(10, "!dom0"))), "only as Domain 0"),
        (b"MZ" + bytes(0x36) + b"ARM\x64" + bytes(4096), "Arm64"),
        (b"#!/bin/sh\n", "neither a bzImage nor an ELF file"),
        (b"hsqs" + bytes(100), "squashfs"),
    ],
)
def test_unsupported(opened: Callable[[bytes], KernelImage], content: bytes, message: str) -> None:
    with pytest.raises(KernelUnsupportedError, match=message) as caught:
        opened(content)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (elf(loads=[]), "nothing to load"),
        (elf(loads=[Load(b"x" * 64, 0x1000000, memsz=10)]), "larger in the file than in memory"),
        (elf(loads=[Load(b"x", (1 << 64) - 16, memsz=4096)]), "wraps around"),
        (elf(loads=[Load(b"x", 0x1000000, memsz=1 << 50)]), "wants to be loaded at"),
        (elf(notes=standard_notes(entry=VIRTUAL + 64)), "entry point"),
        (elf(notes=standard_notes(entry=VIRTUAL - 1)), "entry point"),
        (elf(notes=standard_notes(entry=VIRTUAL, extra=number(3, LINUX_BASE + 12))), "virtual base"),
        (elf(notes=standard_notes(entry=VIRTUAL, extra=number(2, VIRTUAL + 8))), "hypercall page"),
        (elf(notes=standard_notes(entry=VIRTUAL, extra=number(2, VIRTUAL + 0x1000))), "hypercall page"),
        (elf(notes=standard_notes(entry=VIRTUAL, extra=note(1, b"abc"))), "Xen note 1 has 3 bytes"),
        (elf(notes=standard_notes(entry=VIRTUAL) + b"\x04\0\0\0\xff\0\0\0\x01\0\0\0Xen\0"), "note is longer than the table"),
    ],
)
def test_corrupt(opened: Callable[[bytes], KernelImage], content: bytes, message: str) -> None:
    with pytest.raises(KernelFormatError, match=message):
        opened(content)


def test_huge_packed_file(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"\x1f\x8b")
    os.truncate(path, kernel_image.PACKED_LIMIT + 1)
    with pytest.raises(KernelFormatError, match="more than 256 MiB are refused"):
        open_kernel(path, cache_directory=tmp_path)


def test_executable_by_sections(opened: Callable[[bytes], KernelImage]) -> None:
    """Linux's segment of init text and data is RWX, but only some of its sections are code."""
    loads = [
        Load(bytes(0x1000), 0x1000000, flags=R | X, vaddr=VIRTUAL),
        Load(bytes(0x4000), 0x1001000, memsz=0x9000, vaddr=VIRTUAL + 0x1000),
    ]
    sections = [
        Sect(".text", 1, ALLOC | EXEC, address=VIRTUAL, inside=(0, 0, 0x1000)),
        Sect(".init.data", 1, ALLOC, address=VIRTUAL + 0x1000, inside=(1, 0, 0x2000)),
        Sect(".init.text", 1, ALLOC | EXEC, address=VIRTUAL + 0x3000, inside=(1, 0x2000, 0x800)),
    ]
    kernel = opened(Elf(loads, standard_notes(entry=VIRTUAL), sections).build())
    assert kernel.segments[0].executable == ((VIRTUAL, VIRTUAL + 0x1000),)
    assert kernel.segments[1].executable == ((VIRTUAL + 0x3000, VIRTUAL + 0x3800),)


def test_executable_by_segments(opened: Callable[[bytes], KernelImage]) -> None:
    """Without sections, or with sections that say nothing of code (GRUB's), the segments' flags count."""
    loads = [Load(bytes(0x1000), 0x1000000, memsz=0x3000, flags=R | W | X), Load(bytes(0x1000), 0x1003000, flags=R | W)]
    for sections in ([], [Sect(".text", 1, 0, inside=(0, 0, 0x1000))]):
        kernel = opened(Elf(loads, standard_notes(entry=VIRTUAL), sections).build())
        assert [segment.executable for segment in kernel.segments] == [((VIRTUAL, VIRTUAL + 0x3000),), ()]


def test_entry_point_in_what_the_sections_call_data(opened: Callable[[bytes], KernelImage]) -> None:
    loads = [Load(bytes(0x4000), 0x1000000)]
    sections = [Sect(".text", 1, ALLOC | EXEC, inside=(0, 0x2000, 0x1000))]
    kernel = opened(Elf(loads, standard_notes(entry=VIRTUAL), sections).build())
    assert kernel.segments[0].executable == ((VIRTUAL, VIRTUAL + 0x4000),)


def test_paddr_offset_and_base_zero(opened: Callable[[bytes], KernelImage]) -> None:
    loads = [Load(bytes(0x2000), LINUX_BASE + 0x1000000, vaddr=0)]
    kernel = opened(Elf(loads, standard_notes(entry=VIRTUAL, extra=number(4, LINUX_BASE))).build())
    assert (kernel.start, kernel.end) == (VIRTUAL, VIRTUAL + 0x2000)
    without_base = opened(Elf([Load(bytes(64), 0x2000)], text(8, "generic") + text(5, "xen-3.0"), entry=0x2010).build())
    assert (without_base.virt_base, without_base.entry) == (0, 0x2010)
    with pytest.raises(KernelFormatError, match="PADDR_OFFSET but no VIRT_BASE"):
        opened(Elf([Load(bytes(64), 0x2000)], text(8, "generic") + text(5, "xen-3.0") + number(4, 0)).build())
