"""A kernel that is entered in protected mode by its note PHYS32_ENTRY (elfnote.h; Xen's docs/misc/pvh)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyxen.toolstack.builder.elf_file import PT_LOAD, ElfFile
from pyxen.toolstack.builder.elf_notes import read_notes
from pyxen.toolstack.builder.errors import KernelFormatError, KernelUnsupportedError
from pyxen.toolstack.builder.kernel_image import read_kernel

PVH_KERNEL_NEEDED = (
    "a kernel for PVH domains is needed: Linux built with CONFIG_PVH (the kernels of the distributions are), GRUB's grub-i386-xen_pvh.bin"
)
#: Its addresses are 32 bits wide.
_END = 1 << 32


@dataclass(frozen=True)
class PhysicalSegment:
    """A piece of the kernel at a guest physical address; memory after ``data`` is zero."""

    start: int
    size: int
    data: memoryview


@dataclass(frozen=True)
class PvhKernel:
    """Ready to be loaded. ``start`` and ``end`` are the lowest and highest address of its segments."""

    path: Path
    segments: tuple[PhysicalSegment, ...]
    start: int
    end: int
    entry: int


def open_pvh_kernel(path: Path, *, cache_directory: Path | None = None) -> PvhKernel:
    """Reads a bzImage, an ELF file, or one of them packed. Raises KernelFileError, KernelFormatError, KernelUnsupportedError, whose message
    names the file."""
    return read_kernel(path, cache_directory, lambda elf: _kernel_of(path, elf))


def _kernel_of(path: Path, elf: ElfFile) -> PvhKernel:
    notes = read_notes(elf)
    if notes is None or notes.phys32_entry is None:
        raise KernelUnsupportedError(f"it has no PVH entry point (note PHYS32_ENTRY); {PVH_KERNEL_NEEDED}")
    loadable = [segment for segment in elf.segments if segment.kind == PT_LOAD and segment.memory_size]
    if not loadable:
        raise KernelFormatError("corrupt: an ELF file with nothing to load")
    if sum(segment.file_size for segment in loadable) > elf.source.size:
        raise KernelFormatError("corrupt: its ELF segments overlap in the file")
    segments = tuple(
        PhysicalSegment(segment.physical_address, segment.memory_size, elf.content(segment, "ELF segments"))
        for segment in sorted(loadable, key=lambda segment: segment.physical_address)
    )
    start, end = segments[0].start, max(segment.start + segment.size for segment in segments)
    if end > _END:
        raise KernelFormatError(f"corrupt: it wants to be loaded at {start:#x} to {end:#x}, beyond 4 GiB")
    for before, after in zip(segments, segments[1:], strict=False):
        if before.start + before.size > after.start:
            raise KernelFormatError(f"corrupt: two of its ELF segments overlap at {after.start:#x}")
    if not start <= notes.phys32_entry < end:
        raise KernelFormatError(f"corrupt: its PVH entry point {notes.phys32_entry:#x} lies outside of it ({start:#x} to {end:#x})")
    return PvhKernel(path, segments, start, end, notes.phys32_entry)
