"""What a kernel tells Xen in its ELF notes (elfnote.h) or, in old kernels, in the string of its section ``__xen_guest``."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pyxen.abi import elfnote as abi_elfnote
from pyxen.toolstack.builder.elf_file import PT_NOTE, SHT_NOTE, ElfFile
from pyxen.toolstack.builder.errors import KernelFormatError, KernelUnsupportedError, printable
from pyxen.toolstack.builder.features import FEATURE_BITS, parse_features

_PAGE_SHIFT = 12
_NAME_LIMIT = 4096

PV_KERNEL_NEEDED = (
    "a kernel for Xen PV domains is needed: Linux built with CONFIG_XEN_PV (the kernels of the distributions are), "
    "GRUB's grub-x86_64-xen.bin, NetBSD's XEN3_DOMU, Mini-OS"
)


@dataclass(frozen=True)
class XenNotes:
    """A kernel's notes. Addresses are virtual, in bytes; None where the kernel says nothing."""

    legacy: bool = False  #: from the section __xen_guest
    guest_os: str = ""
    guest_version: str = ""
    xen_version: str = ""
    loader: str = ""
    pae_mode: str = ""
    entry: int | None = None
    hypercall_page: int | None = None
    virt_base: int | None = None
    paddr_offset: int | None = None
    init_p2m: int | None = None
    hv_start_low: int | None = None
    phys32_entry: int | None = None
    mod_start_pfn: bool = False  #: the ramdisk need not be mapped; start_info.mod_start is a PFN then
    suspend_cancel: bool = False
    bsd_symtab: bool = False
    l1_mfn_valid: tuple[tuple[int, int], ...] = ()  #: pairs of mask, value
    supported_features: frozenset[int] = frozenset()
    required_features: frozenset[int] = frozenset()


def read_notes(elf: ElfFile) -> XenNotes | None:
    """The notes of the PT_NOTE segments; if there are none of Xen's, those of the note sections; then the section __xen_guest.
    None when the file has nothing for Xen. KernelFormatError for notes that can't be understood."""
    for parts in ([s for s in elf.segments if s.kind == PT_NOTE], [s for s in elf.sections if s.kind == SHT_NOTE]):
        notes = [note for part in parts for note in _xen_notes(elf.content(part, "ELF notes"))]
        if notes:
            return _interpret(notes)
    for section in elf.sections:
        if section.name == b"__xen_guest":
            return _interpret_legacy(bytes(elf.content(section, "section __xen_guest")))
    return None


def check_notes(notes: XenNotes) -> None:
    """KernelUnsupportedError unless these are the notes of a PV kernel for Xen 3 or later (all Xen are compatible with it)."""
    if not notes.xen_version and not notes.guest_os and not notes.loader:
        if notes.phys32_entry is not None:
            raise KernelUnsupportedError(f"it can only run as PVH (type = 'pvh'); {PV_KERNEL_NEEDED}")
        raise KernelUnsupportedError(f"its Xen notes have neither a loader nor a guest OS; {PV_KERNEL_NEEDED}")
    if not notes.loader.startswith("generic") and not notes.guest_os.startswith("linux"):
        raise KernelUnsupportedError(
            f"its Xen notes ask for the loader {printable(notes.loader)}, Xen has the one called 'generic'; {PV_KERNEL_NEEDED}"
        )
    if not notes.xen_version.startswith("xen-3.0"):
        raise KernelUnsupportedError(f"it is built for Xen version {printable(notes.xen_version)}, not for xen-3.0; {PV_KERNEL_NEEDED}")


def _xen_notes(table: memoryview) -> Iterator[tuple[int, bytes]]:
    """(type, description) of each note whose owner is Xen."""
    position = 0
    while position + 12 <= len(table):
        name_size, description_size, kind = struct.unpack_from("<III", table, position)
        name_start = position + 12
        description_start = name_start + (name_size + 3 & ~3)
        position = description_start + (description_size + 3 & ~3)
        if description_start + description_size > len(table):
            raise KernelFormatError("corrupt: an ELF note is longer than the table it is in")
        if name_size <= _NAME_LIMIT and bytes(table[name_start : name_start + name_size]).rstrip(b"\0") == b"Xen":
            yield kind, bytes(table[description_start : description_start + description_size])


def _number(description: bytes, kind: int) -> int:
    if len(description) not in (4, 8):
        raise KernelFormatError(f"corrupt: its Xen note {kind} has {len(description)} bytes instead of a number of 4 or 8")
    return int.from_bytes(description, "little")


def _string(description: bytes) -> str:
    return description.split(b"\0", 1)[0].decode("latin-1")


def _mask_value_pairs(description: bytes) -> tuple[tuple[int, int], ...]:
    whole = len(description) // 16 * 16
    return tuple((mask, value) for mask, value in struct.iter_unpack("<QQ", description[:whole]))


def _feature_words(description: bytes) -> frozenset[int]:
    bits = int.from_bytes(description, "little")
    return frozenset(bit for bit in FEATURE_BITS.values() if bits >> bit & 1)


def _interpret(notes: list[tuple[int, bytes]]) -> XenNotes:
    last = dict(notes)

    def text(kind: int) -> str:
        return _string(last.get(kind, b""))

    def number(kind: int) -> int | None:
        return _number(last[kind], kind) if kind in last else None

    supported, required = parse_features(text(abi_elfnote.XEN_ELFNOTE_FEATURES))
    return XenNotes(
        guest_os=text(abi_elfnote.XEN_ELFNOTE_GUEST_OS),
        guest_version=text(abi_elfnote.XEN_ELFNOTE_GUEST_VERSION),
        xen_version=text(abi_elfnote.XEN_ELFNOTE_XEN_VERSION),
        loader=text(abi_elfnote.XEN_ELFNOTE_LOADER),
        pae_mode=text(abi_elfnote.XEN_ELFNOTE_PAE_MODE),
        entry=number(abi_elfnote.XEN_ELFNOTE_ENTRY),
        hypercall_page=number(abi_elfnote.XEN_ELFNOTE_HYPERCALL_PAGE),
        virt_base=number(abi_elfnote.XEN_ELFNOTE_VIRT_BASE),
        paddr_offset=number(abi_elfnote.XEN_ELFNOTE_PADDR_OFFSET),
        init_p2m=number(abi_elfnote.XEN_ELFNOTE_INIT_P2M),
        hv_start_low=number(abi_elfnote.XEN_ELFNOTE_HV_START_LOW),
        phys32_entry=number(abi_elfnote.XEN_ELFNOTE_PHYS32_ENTRY),
        mod_start_pfn=bool(number(abi_elfnote.XEN_ELFNOTE_MOD_START_PFN)),
        suspend_cancel=bool(number(abi_elfnote.XEN_ELFNOTE_SUSPEND_CANCEL)),
        bsd_symtab=text(abi_elfnote.XEN_ELFNOTE_BSD_SYMTAB) == "yes",
        l1_mfn_valid=_mask_value_pairs(last.get(abi_elfnote.XEN_ELFNOTE_L1_MFN_VALID, b"")),
        supported_features=supported | _feature_words(last.get(abi_elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES, b"")),
        required_features=required,
    )


def _interpret_legacy(untrusted_section: bytes) -> XenNotes:
    """``NAME=VALUE,NAME=VALUE,...``; the hypercall page is a page number relative to VIRT_BASE here."""
    values: dict[str, str] = {}
    for word in _string(untrusted_section).split(","):
        name, _, value = word.partition("=")
        values[name.strip()] = value.strip()

    def number(name: str) -> int | None:
        if name not in values:
            return None
        try:
            value = int(values[name], 0)
        except ValueError:
            value = -1
        if not 0 <= value < 1 << 64:
            raise KernelFormatError(f"corrupt: {name} in its section __xen_guest is no number: {printable(values[name])}")
        return value

    virt_base = number("VIRT_BASE")
    hypercall_pfn = number("HYPERCALL_PAGE")
    supported, required = parse_features(values.get("FEATURES", ""))
    return XenNotes(
        legacy=True,
        guest_os=values.get("GUEST_OS", ""),
        guest_version=values.get("GUEST_VER", ""),
        xen_version=values.get("XEN_VER", ""),
        loader=values.get("LOADER", ""),
        pae_mode=values.get("PAE", ""),
        entry=number("VIRT_ENTRY"),
        hypercall_page=None if hypercall_pfn is None else (virt_base or 0) + (hypercall_pfn << _PAGE_SHIFT),
        virt_base=virt_base,
        paddr_offset=number("ELF_PADDR_OFFSET"),
        bsd_symtab="BSD_SYMTAB" in values,
        supported_features=supported,
        required_features=required,
    )
