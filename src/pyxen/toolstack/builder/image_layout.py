"""Where everything of a new PV64 domain lies, in pseudo-physical and in virtual memory.

Public header xen.h, "Start-of-day memory layout": one virtual region that maps the PFNs from 0 on, in this order: kernel, ramdisk
(unless the kernel takes it unmapped), P2M list (unless the kernel names another address for it), start_info, xenstore page,
console page, page tables, boot stack; at least 512 KiB of slack; the end aligned to 4 MiB. After it in pseudo-physical memory
an unmapped ramdisk, then a P2M list with an address of its own, followed by the page tables for that address.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from pyxen.toolstack.builder.errors import KernelUnsupportedError, MemoryTooSmallError, RamdiskError
from pyxen.toolstack.builder.kernel_image import KernelImage
from pyxen.toolstack.builder.page_tables import PAGE_SHIFT, PAGE_SIZE, Mapping, Table, tables_for
from pyxen.toolstack.builder.ramdisk import Ramdisk

_SLACK = 512 << 10
_ALIGNMENT = 4 << 20
_P2M_ENTRY = 8
#: The lower half of the canonical addresses, and what is above the hypervisor's hole.
_GUEST_RANGES = (range(1 << 47), range(HYPERVISOR_VIRT_END, 1 << 64))


@dataclass(frozen=True)
class ImageLayout:
    """PFNs and sizes in pages, addresses virtual, for a domain of ``total_pages``."""

    total_pages: int
    virt_base: int
    kernel_pfns: range
    ramdisk_pfns: range
    ramdisk_mapped: bool
    p2m_pfns: range
    p2m_address: int
    start_info_pfn: int
    store_pfn: int
    console_pfn: int
    tables: tuple[Table, ...]
    table_pfns: range
    stack_pfn: int
    mapped_pages: int
    p2m_tables: tuple[Table, ...]  #: those that only the P2M's own address needs
    p2m_table_pfns: range
    used_pages: int  #: PFNs below this one are used

    def address_of(self, pfn: int) -> int:
        """The virtual address of a PFN in the main mapping."""
        return self.virt_base + pfn * PAGE_SIZE

    def pfn_of(self, address: int) -> int:
        """The PFN at a virtual address in the main mapping."""
        return address - self.virt_base >> PAGE_SHIFT

    @property
    def p2m_outside(self) -> bool:
        """Whether the P2M has an address of its own (XEN_ELFNOTE_INIT_P2M)."""
        return self.p2m_address != self.address_of(self.p2m_pfns.start)

    @property
    def mappings(self) -> list[Mapping]:
        """The main mapping, then the P2M's if it has its own."""
        main = Mapping(self.virt_base, self.mapped_pages, 0)
        return [main, Mapping(self.p2m_address, len(self.p2m_pfns), self.p2m_pfns.start)] if self.p2m_outside else [main]

    @property
    def table_places(self) -> dict[Table, int]:
        """The PFN of each page table."""
        return dict(zip(self.tables + self.p2m_tables, [*self.table_pfns, *self.p2m_table_pfns], strict=True))


def lay_out(kernel: KernelImage, ramdisk: Ramdisk | None, total_pages: int) -> ImageLayout:
    """The layout of a domain of this size. Raises MemoryTooSmallError, RamdiskError for one larger than the memory, and
    KernelUnsupportedError when the kernel's addresses leave no room for it."""
    if ramdisk is not None and _pages(ramdisk.size) > total_pages:
        raise RamdiskError(
            f"ramdisk {ramdisk.path} has {_mib(_pages(ramdisk.size))} MiB, the domain's memory is {total_pages >> 8} MiB: "
            "give the domain more memory"
        )
    layout = _lay_out(kernel, ramdisk, total_pages)
    _check_addresses(kernel, layout)
    if layout.used_pages > total_pages:
        needed = _least_pages(kernel, ramdisk, layout.used_pages)
        parts = f"the kernel takes {_mib(layout.kernel_pfns.stop)} MiB" + (
            f" and the ramdisk {_mib(len(layout.ramdisk_pfns))} MiB" if ramdisk is not None else ""
        )
        raise MemoryTooSmallError(
            f"{total_pages >> 8} MiB of memory are too little for kernel {kernel.path}: "
            f"at least {_mib(needed)} MiB are needed to load it ({parts})",
            needed * (PAGE_SIZE >> 10),
        )
    return layout


def _pages(size: int) -> int:
    return -(-size // PAGE_SIZE)


def _mib(pages: int) -> int:
    return -(-pages // 256)


def _least_pages(kernel: KernelImage, ramdisk: Ramdisk | None, guess: int) -> int:
    """The least memory that the image fits in: the P2M list grows with the memory, so look for the fixed point from below."""
    while (used := _lay_out(kernel, ramdisk, guess).used_pages) > guess:
        guess = used
    return guess


class _Allocator:
    """Hands out PFNs from 0 upwards."""

    def __init__(self) -> None:
        self.next = 0

    def take(self, pages: int) -> range:
        self.next += pages
        return range(self.next - pages, self.next)


def _lay_out(kernel: KernelImage, ramdisk: Ramdisk | None, total_pages: int) -> ImageLayout:
    base = kernel.virt_base
    pfns = _Allocator()
    pfns.take((kernel.start - base) // PAGE_SIZE)
    kernel_pfns = pfns.take(_pages(kernel.end - base) - pfns.next)
    ramdisk_pages = _pages(ramdisk.size) if ramdisk is not None else 0
    p2m_pages = _pages(total_pages * _P2M_ENTRY)
    ramdisk_mapped = not kernel.notes.mod_start_pfn
    p2m_address = _own_p2m_address(kernel)

    ramdisk_pfns = pfns.take(ramdisk_pages if ramdisk_mapped else 0)
    p2m_pfns = pfns.take(p2m_pages if p2m_address is None else 0)
    start_info_pfn, store_pfn, console_pfn = pfns.take(3)
    tables, end = _main_mapping(base, base + pfns.next * PAGE_SIZE)
    table_pfns = pfns.take(len(tables))
    stack_pfn = pfns.take(1).start
    mapped_pages = (end - base) // PAGE_SIZE
    pfns.take(mapped_pages - pfns.next)

    if not ramdisk_mapped:
        ramdisk_pfns = pfns.take(ramdisk_pages)
    p2m_tables: list[Table] = []
    if p2m_address is not None:
        p2m_pfns = pfns.take(p2m_pages)
        p2m_tables = tables_for(p2m_address, p2m_address + p2m_pages * PAGE_SIZE, tables)
    p2m_table_pfns = pfns.take(len(p2m_tables))
    return ImageLayout(
        total_pages=total_pages,
        virt_base=base,
        kernel_pfns=kernel_pfns,
        ramdisk_pfns=ramdisk_pfns,
        ramdisk_mapped=ramdisk_mapped,
        p2m_pfns=p2m_pfns,
        p2m_address=p2m_address if p2m_address is not None else base + p2m_pfns.start * PAGE_SIZE,
        start_info_pfn=start_info_pfn,
        store_pfn=store_pfn,
        console_pfn=console_pfn,
        tables=tuple(tables),
        table_pfns=table_pfns,
        stack_pfn=stack_pfn,
        mapped_pages=mapped_pages,
        p2m_tables=tuple(p2m_tables),
        p2m_table_pfns=p2m_table_pfns,
        used_pages=pfns.next,
    )


def _own_p2m_address(kernel: KernelImage) -> int | None:
    """XEN_ELFNOTE_INIT_P2M, which as in libxenguest counts only if it is page-aligned and below the kernel's base."""
    address = kernel.notes.init_p2m
    return address if address is not None and address % PAGE_SIZE == 0 and address < kernel.virt_base else None


def _main_mapping(base: int, allocated_end: int) -> tuple[list[Table], int]:
    """The tables of the main mapping, and its end. The mapping has to hold its own tables, so it is a fixed point too."""
    end = _align(allocated_end)
    while True:
        tables = tables_for(base, end)
        needed = _align(allocated_end + (len(tables) + 1) * PAGE_SIZE + _SLACK)
        if needed <= end:
            return tables, end
        end = needed


def _align(address: int) -> int:
    return -(-address // _ALIGNMENT) * _ALIGNMENT


def _check_addresses(kernel: KernelImage, layout: ImageLayout) -> None:
    for mapping in layout.mappings:
        first, last = mapping.start, mapping.start + mapping.pages * PAGE_SIZE - 1
        if not any(first in allowed and last in allowed for allowed in _GUEST_RANGES):
            raise KernelUnsupportedError(
                f"kernel {kernel.path}: with this memory and ramdisk it would be mapped from {first:#x} to {last:#x}, which is "
                f"not all the guest's (Xen has {HYPERVISOR_VIRT_START:#x} to {HYPERVISOR_VIRT_END:#x}); "
                "give the domain less memory or a smaller ramdisk"
            )
    if layout.p2m_outside and layout.p2m_address + len(layout.p2m_pfns) * PAGE_SIZE > layout.virt_base:
        raise KernelUnsupportedError(
            f"kernel {kernel.path}: the list of its frames would run from {layout.p2m_address:#x} into the kernel; "
            "give the domain less memory"
        )
