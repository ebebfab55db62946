"""A kernel file, opened, unpacked and checked: what of it goes where, and what it tells Xen about itself."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyxen.toolstack.builder.byte_source import ByteSource, FileBytes, MemoryBytes
from pyxen.toolstack.builder.bz_image import is_bz_image, payload_of
from pyxen.toolstack.builder.decompression import compression_of, decompress
from pyxen.toolstack.builder.elf_file import (
    ELF_MAGIC,
    PF_X,
    PT_LOAD,
    SHF_ALLOC,
    SHF_EXECINSTR,
    SHT_NOBITS,
    ElfFile,
    Segment,
)
from pyxen.toolstack.builder.elf_notes import PV_KERNEL_NEEDED, XenNotes, check_notes, read_notes
from pyxen.toolstack.builder.errors import BuilderError, KernelFileError, KernelFormatError, KernelUnsupportedError
from pyxen.toolstack.builder.features import check_required_features
from pyxen.toolstack.builder.kernel_cache import KernelCache, default_cache_directory

#: A packed file, and what it unpacks to, in bytes.
PACKED_LIMIT = 256 << 20
UNPACKED_LIMIT = 512 << 20
#: What can be packed in what: .gz of a bzImage of a packed ELF.
_WRAPPER_LIMIT = 4
#: PV domains have the lower half (and more) of the address space, so no sound image is larger.
_IMAGE_LIMIT = 1 << 46

_OTHER_KERNELS = {
    (0x38, b"ARM\x64"): "a kernel for another architecture (Arm64)",
    (0x24, b"\x18\x28\x6f\x01"): "a kernel for another architecture (32-bit Arm)",
    (0x38, b"RSC\x05"): "a kernel for another architecture (RISC-V)",
    (0, b"\x27\x05\x19\x56"): "a U-Boot image",
    (0, b"hsqs"): "a squashfs file system",
    (0, b"070701"): "a cpio archive, perhaps the ramdisk",
}
_IDENTIFY = 4096

Image = TypeVar("Image")


@dataclass(frozen=True)
class LoadSegment:
    """A piece of the kernel. Addresses are virtual as the kernel is first mapped, in bytes; memory after ``data`` is zero."""

    start: int
    size: int  #: in memory
    data: memoryview
    executable: tuple[tuple[int, int], ...]  #: ranges (start, end) that have code


@dataclass(frozen=True)
class KernelImage:
    """A PV64 kernel, ready to be loaded. Immutable; may be used for any number of domains."""

    path: Path
    notes: XenNotes
    segments: tuple[LoadSegment, ...]
    virt_base: int  #: where PFN 0 is mapped
    start: int  #: lowest and highest virtual address of the segments
    end: int
    entry: int


def open_kernel(path: Path, *, cache_directory: Path | None = None) -> KernelImage:
    """Reads a bzImage, an ELF64 file, or one of them packed. The unpacked form is kept in ``<cache_directory>/kernels`` (by default
    in pyxen's cache). Raises KernelFileError, KernelFormatError, KernelUnsupportedError, whose message names the file."""
    return read_kernel(path, cache_directory, lambda elf: _kernel_of(path, elf))


def read_kernel(path: Path, cache_directory: Path | None, interpret: Callable[[ElfFile], Image]) -> Image:
    """Open and unpack the file, and make of its ELF form what ``interpret`` says. Errors as of ``open_kernel``."""
    cache = KernelCache(cache_directory if cache_directory is not None else default_cache_directory())
    try:
        with open_regular_file(path, KernelFileError) as descriptor:
            return interpret(ElfFile(_elf_source(descriptor, cache)))
    except BuilderError as error:
        raise type(error)(f"kernel {path}: {error}") from error


@contextlib.contextmanager
def open_regular_file(path: Path, error_type: type[BuilderError]) -> Iterator[int]:
    """A descriptor for reading. Raises ``error_type`` (message without the path) for what can't be opened, is empty or no regular file."""
    try:
        # Without O_NONBLOCK, opening a FIFO that nobody writes to would hang the host process.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise error_type("no such file") from None
    except (OSError, ValueError) as error:
        raise error_type(f"can't be opened: {getattr(error, 'strerror', None) or error}") from None
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise error_type("is a directory, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise error_type("is not a regular file")
        if status.st_size == 0:
            raise error_type("the file is empty")
        yield descriptor
    except OSError as error:
        raise error_type(f"can't be read: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _elf_source(descriptor: int, cache: KernelCache) -> ByteSource:
    """The ELF file in the file. What is packed is read whole, an ELF file piece by piece."""
    file = FileBytes(descriptor)
    head = file.read(0, min(file.size, _IDENTIFY), "header")
    if head[:4] == ELF_MAGIC:
        return file
    _check_recognised(head)
    if file.size > PACKED_LIMIT:
        raise KernelFormatError(f"a packed kernel of {file.size >> 20} MiB; more than {PACKED_LIMIT >> 20} MiB are refused")
    return MemoryBytes(_unwrap(file.read(0, file.size, "content"), cache))


def _unwrap(data: memoryview, cache: KernelCache) -> memoryview:
    for _ in range(_WRAPPER_LIMIT):
        if data[:4] == ELF_MAGIC:
            return data
        _check_recognised(data)
        data = _unpack_payload(payload_of(data), cache) if is_bz_image(data) else _unpack(data, cache)
    raise KernelFormatError(f"packed more than {_WRAPPER_LIMIT} times")


def _unpack(packed: memoryview, cache: KernelCache) -> memoryview:
    return cache.unpacked(packed, lambda: decompress(packed, UNPACKED_LIMIT))


def _unpack_payload(payload: memoryview, cache: KernelCache) -> memoryview:
    """What is in a bzImage. Its last four bytes are the unpacked size, the only check that some of the compressions have."""
    if payload[:4] == ELF_MAGIC or compression_of(payload) is None:
        return payload
    data = _unpack(payload, cache)
    size = int.from_bytes(payload[-4:], "little")
    if len(data) != size:
        raise KernelFormatError(f"corrupt: its payload should unpack to {size} bytes and unpacks to {len(data)}")
    return data


def _check_recognised(data: memoryview) -> None:
    if data[:4] == ELF_MAGIC or is_bz_image(data) or compression_of(data) is not None:
        return
    for (offset, magic), name in _OTHER_KERNELS.items():
        if data[offset : offset + len(magic)] == magic:
            raise KernelUnsupportedError(f"{name}; {PV_KERNEL_NEEDED}")
    raise KernelUnsupportedError(f"neither a bzImage nor an ELF file, nor one of them packed; {PV_KERNEL_NEEDED}")


def _kernel_of(path: Path, elf: ElfFile) -> KernelImage:
    if elf.bits != 64:
        raise KernelUnsupportedError("a 32-bit x86 kernel; PV domains are 64-bit: use the amd64 one, or type = 'pvh'")
    notes = read_notes(elf)
    if notes is None:
        raise KernelUnsupportedError(f"no Xen notes in it; {PV_KERNEL_NEEDED}")
    check_notes(notes)
    check_required_features(notes.required_features)
    virt_base = notes.virt_base if notes.virt_base is not None else 0
    loadable = [segment for segment in elf.segments if segment.kind == PT_LOAD and segment.memory_size]
    if virt_base & 0xFFF:
        raise KernelFormatError(f"corrupt: its virtual base {virt_base:#x} is not the address of a page")
    if not loadable:
        raise KernelFormatError("corrupt: an ELF file with nothing to load")
    if sum(segment.file_size for segment in loadable) > elf.source.size:
        raise KernelFormatError("corrupt: its ELF segments overlap in the file")
    entry = notes.entry if notes.entry is not None else elf.entry
    offset = _virtual_offset(notes)
    segments = tuple(_load_segment(elf, segment, offset) for segment in sorted(loadable, key=lambda segment: segment.physical_address))
    start = segments[0].start
    end = max(segment.start + segment.size for segment in segments)
    if start < virt_base or end > 1 << 64 or end - virt_base > _IMAGE_LIMIT:
        raise KernelFormatError(f"corrupt: it wants to be loaded at {start:#x} to {end:#x}, but its virtual base is {virt_base:#x}")
    if not start <= entry < end:
        raise KernelFormatError(f"corrupt: its entry point {entry:#x} lies outside of it ({start:#x} to {end:#x})")
    page = notes.hypercall_page
    if page is not None and (page & 0xFFF or not start & ~0xFFF <= page < end):
        raise KernelFormatError(f"corrupt: its hypercall page {page:#x} is not one of its pages")
    return KernelImage(path, notes, _with_executable_entry(segments, elf, entry), virt_base, start, end, entry)


def _virtual_offset(notes: XenNotes) -> int:
    """What is added to a segment's physical address to get the virtual one (elfnote.h, PADDR_OFFSET and its legacy default)."""
    virt_base = notes.virt_base if notes.virt_base is not None else 0
    if notes.paddr_offset is not None:
        if notes.virt_base is None:
            raise KernelFormatError("corrupt: its Xen notes have PADDR_OFFSET but no VIRT_BASE")
        return virt_base - notes.paddr_offset
    return 0 if notes.legacy else virt_base


def _load_segment(elf: ElfFile, segment: Segment, offset: int) -> LoadSegment:
    start = segment.physical_address + offset
    ranges = tuple((start + first, start + last) for first, last in _executable_ranges(elf, segment))
    return LoadSegment(start, segment.memory_size, elf.content(segment, "ELF segments"), ranges)


def _executable_ranges(elf: ElfFile, segment: Segment) -> list[tuple[int, int]]:
    """Ranges of code, relative to the segment's start. Linux has segments RWX in which only some sections are code, so the sections
    decide where they say anything (GRUB's say nothing)."""
    if not segment.flags & PF_X:
        return []
    ranges = []
    for section in elf.sections:
        if section.flags & (SHF_ALLOC | SHF_EXECINSTR) != SHF_ALLOC | SHF_EXECINSTR:
            continue
        first = section.address - segment.virtual_address if section.kind == SHT_NOBITS else section.offset - segment.offset
        if 0 <= first and first + section.size <= segment.memory_size and section.size:
            ranges.append((first, first + section.size))
    return ranges or [(0, segment.memory_size)]


def _with_executable_entry(segments: tuple[LoadSegment, ...], elf: ElfFile, entry: int) -> tuple[LoadSegment, ...]:
    """If the sections claim that the entry point is no code they are not to be trusted: then every segment is executable."""
    if any(first & ~0xFFF <= entry < last + 0xFFF & ~0xFFF for segment in segments for first, last in segment.executable):
        return segments
    return tuple(
        LoadSegment(segment.start, segment.size, segment.data, ((segment.start, segment.start + segment.size),)) for segment in segments
    )
