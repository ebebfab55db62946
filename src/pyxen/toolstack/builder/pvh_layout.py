"""Where everything of a new PVH domain lies in its physical memory (libxl_x86.c and xc_dom_x86.c of Xen 4.17).

RAM from 0 up to the hole below 4 GiB, the rest of it from 4 GiB on. In the hole: the ACPI tables at 0xfc000000, the special pages (store,
console) below 0xff000000, the local APIC. The kernel goes where its ELF file says, the modules after it, then one block with the start
information.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from pyxen.abi.hvm import start_info as abi
from pyxen.toolstack.builder.errors import MemoryTooSmallError, RamdiskError
from pyxen.toolstack.builder.pvh_kernel import PvhKernel
from pyxen.toolstack.builder.ramdisk import Ramdisk

PAGE_SIZE = 4096
HOLE_START, FOUR_GIB = 0xF0000000, 1 << 32
ACPI_ADDRESS = 0xFC000000
SPECIAL_PAGES, SPECIAL_END = 8, 0xFF000000
SPECIAL_START = SPECIAL_END - SPECIAL_PAGES * PAGE_SIZE
STORE_GFN, CONSOLE_GFN = (SPECIAL_START >> 12) + 4, (SPECIAL_START >> 12) + 7


@dataclass(frozen=True)
class PvhLayout:
    """Addresses are guest physical, sizes in octets, ``*_gfns`` ranges of page numbers."""

    low_gfns: range
    high_gfns: range
    ramdisk_address: int
    ramdisk_size: int
    start_info_address: int
    start_info_room: int
    acpi_size: int

    @property
    def ram_pages(self) -> int:
        return len(self.low_gfns) + len(self.high_gfns)

    @property
    def acpi_gfns(self) -> range:
        return range(ACPI_ADDRESS >> 12, (ACPI_ADDRESS + self.acpi_size + PAGE_SIZE - 1) >> 12)

    @property
    def memory_map(self) -> list[tuple[int, int, int]]:
        """(address, size, XEN_HVM_MEMMAP_TYPE_*), in ascending order; the types have the values of E820's."""
        entries = [
            (0, len(self.low_gfns) * PAGE_SIZE, abi.XEN_HVM_MEMMAP_TYPE_RAM),
            (ACPI_ADDRESS, self.acpi_size, abi.XEN_HVM_MEMMAP_TYPE_ACPI),
            (SPECIAL_START, SPECIAL_END - SPECIAL_START, abi.XEN_HVM_MEMMAP_TYPE_RESERVED),
        ]
        if self.high_gfns:
            entries.append((FOUR_GIB, len(self.high_gfns) * PAGE_SIZE, abi.XEN_HVM_MEMMAP_TYPE_RAM))
        return entries


def lay_out(kernel: PvhKernel, ramdisk: Ramdisk | None, command_line: bytes, memory_kib: int, acpi_size: int) -> PvhLayout:
    """Raises MemoryTooSmallError, RamdiskError."""
    memory = memory_kib << 10
    low = min(memory, HOLE_START) // PAGE_SIZE
    high = max(0, memory - HOLE_START) // PAGE_SIZE
    if ramdisk is not None and ramdisk.size > memory:
        raise RamdiskError(
            f"ramdisk {ramdisk.path} has {_mib(ramdisk.size)} MiB, the domain's memory is {memory >> 20} MiB: give the domain more memory"
        )
    ramdisk_address = _up(kernel.end)
    ramdisk_size = ramdisk.size if ramdisk is not None else 0
    info_address = _up(ramdisk_address + ramdisk_size)
    room = _up(start_info_size(command_line))
    needed = info_address + room
    if needed > low * PAGE_SIZE:
        raise MemoryTooSmallError(
            f"{memory >> 20} MiB of memory are too little for kernel {kernel.path}: kernel and ramdisk end at {_mib(needed)} MiB; "
            f"give the domain at least {_mib(needed) + 32} MiB",
            (_mib(needed) + 32) << 10,
        )
    return PvhLayout(
        low_gfns=range(low),
        high_gfns=range(FOUR_GIB >> 12, (FOUR_GIB >> 12) + high),
        ramdisk_address=ramdisk_address,
        ramdisk_size=ramdisk_size,
        start_info_address=info_address,
        start_info_room=room,
        acpi_size=acpi_size,
    )


def start_info_size(command_line: bytes) -> int:
    """Octets of the block that ``start_info_content`` makes: at most four ranges of memory."""
    sizes = [ctypes.sizeof(abi.hvm_start_info), ctypes.sizeof(abi.hvm_modlist_entry), 4 * ctypes.sizeof(abi.hvm_memmap_table_entry)]
    return sum(sizes) + len(command_line) + 1


def start_info_content(layout: PvhLayout, command_line: bytes, rsdp_address: int) -> bytes:
    """The start information, followed by what it points to: module list, memory map, command line."""
    modules_at = layout.start_info_address + ctypes.sizeof(abi.hvm_start_info)
    modules = [abi.hvm_modlist_entry(layout.ramdisk_address, layout.ramdisk_size, 0, 0)] if layout.ramdisk_size else []
    ranges = [abi.hvm_memmap_table_entry(*entry, 0) for entry in layout.memory_map]
    ranges_at = modules_at + len(modules) * ctypes.sizeof(abi.hvm_modlist_entry)
    command_line_at = ranges_at + len(ranges) * ctypes.sizeof(abi.hvm_memmap_table_entry)
    info = abi.hvm_start_info(
        magic=abi.XEN_HVM_START_MAGIC_VALUE,
        version=1,
        flags=0,
        nr_modules=len(modules),
        modlist_paddr=modules_at if modules else 0,
        cmdline_paddr=command_line_at,
        rsdp_paddr=rsdp_address,
        memmap_paddr=ranges_at,
        memmap_entries=len(ranges),
    )
    return b"".join(map(bytes, (info, *modules, *ranges))) + command_line + b"\0"


def _up(address: int) -> int:
    return address + PAGE_SIZE - 1 & -PAGE_SIZE


def _mib(size: int) -> int:
    return -(-size // (1 << 20))
