"""What a PVH domain finds at the address in EBX when it starts (public header arch-x86/hvm/start_info.h)."""

from __future__ import annotations

from ctypes import Structure, c_uint32, c_uint64

XEN_HVM_START_MAGIC_VALUE = 0x336EC578

XEN_HVM_MEMMAP_TYPE_RAM = 1
XEN_HVM_MEMMAP_TYPE_RESERVED = 2
XEN_HVM_MEMMAP_TYPE_ACPI = 3
XEN_HVM_MEMMAP_TYPE_NVS = 4
XEN_HVM_MEMMAP_TYPE_UNUSABLE = 5
XEN_HVM_MEMMAP_TYPE_DISABLED = 6
XEN_HVM_MEMMAP_TYPE_PMEM = 7


class hvm_start_info(Structure):
    """Start information; all addresses are guest physical."""

    _fields_ = [
        ("magic", c_uint32),  # XEN_HVM_START_MAGIC_VALUE
        ("version", c_uint32),
        ("flags", c_uint32),  # SIF_* (xen.h)
        ("nr_modules", c_uint32),
        ("modlist_paddr", c_uint64),  # array of hvm_modlist_entry
        ("cmdline_paddr", c_uint64),
        ("rsdp_paddr", c_uint64),  # ACPI root pointer
        # From version 1 on.
        ("memmap_paddr", c_uint64),  # array of hvm_memmap_table_entry
        ("memmap_entries", c_uint32),
        ("reserved", c_uint32),
    ]


class hvm_modlist_entry(Structure):
    """A module: the first is the ramdisk."""

    _fields_ = [
        ("paddr", c_uint64),
        ("size", c_uint64),  # bytes
        ("cmdline_paddr", c_uint64),
        ("reserved", c_uint64),
    ]


class hvm_memmap_table_entry(Structure):
    """A range of the memory map."""

    _fields_ = [
        ("addr", c_uint64),
        ("size", c_uint64),  # bytes
        ("type", c_uint32),  # XEN_HVM_MEMMAP_TYPE_*
        ("reserved", c_uint32),
    ]
