"""Xen's notes in a kernel, wherever they are, and what they mean."""

from __future__ import annotations

import pytest

from pyxen.abi import features as abi_features
from pyxen.toolstack.builder.byte_source import MemoryBytes
from pyxen.toolstack.builder.elf_file import ElfFile
from pyxen.toolstack.builder.elf_notes import XenNotes, read_notes
from pyxen.toolstack.builder.errors import KernelFormatError, KernelUnsupportedError
from pyxen.toolstack.builder.features import FEATURE_BITS, check_required_features, parse_features
from tests.unit.builder.elf_maker import LINUX_BASE, Elf, Load, Sect, note, number, standard_notes, text

SHT_NOTE = 7


def notes_of(notes: bytes | None = None, sections: list[Sect] | None = None) -> XenNotes | None:
    return read_notes(ElfFile(MemoryBytes(Elf([Load(b"x" * 64, 0x1000)], notes, sections or []).build())))


def test_every_note() -> None:
    table = b"".join(
        [
            text(6, "linux"),
            text(7, "2.6"),
            text(5, "xen-3.0"),
            number(3, LINUX_BASE),
            number(15, 0x8000000000),
            number(1, LINUX_BASE + 0x1000),
            number(2, LINUX_BASE + 0x2000, 4 + 4),
            number(4, 0x1234),
            note(10, b"!writable_page_tables|pae_pgdir_above_4gb|no_such_feature"),  # Linux's has no NUL at its end
            number(17, 0x8801, 4),
            text(9, "yes"),
            text(8, "generic"),
            note(13, (1).to_bytes(8, "little") + (3).to_bytes(8, "little")),
            number(14, 1, 4),
            number(16, 1, 4),
            number(12, 0xFFFF800000000000),
            number(18, 0x1000850),
            text(11, "yes"),
        ]
    )
    assert notes_of(table) == XenNotes(
        guest_os="linux",
        guest_version="2.6",
        xen_version="xen-3.0",
        loader="generic",
        pae_mode="yes",
        entry=LINUX_BASE + 0x1000,
        hypercall_page=LINUX_BASE + 0x2000,
        virt_base=LINUX_BASE,
        paddr_offset=0x1234,
        init_p2m=0x8000000000,
        hv_start_low=0xFFFF800000000000,
        phys32_entry=0x1000850,
        mod_start_pfn=True,
        suspend_cancel=True,
        bsd_symtab=True,
        l1_mfn_valid=((1, 3),),
        supported_features=frozenset({0, 4, 11, 15}),
        required_features=frozenset({0}),
    )


def test_numbers_of_four_bytes() -> None:
    notes = notes_of(text(8, "generic") + number(3, 0x80000000, 4))
    assert notes is not None
    assert notes.virt_base == 0x80000000


def test_notes_of_other_owners() -> None:
    assert notes_of(note(6, b"linux\0", b"GNU\0") + note(6, b"linux\0", b"Xenon\0")) is None


def test_notes_in_sections() -> None:
    """Kernels whose linker script has no PT_NOTE (NetBSD's)."""
    sections = [Sect(".note.netbsd", SHT_NOTE, 2, note(1, b"1234", b"NetBSD\0")), Sect(".note.Xen", SHT_NOTE, 2, standard_notes())]
    notes = notes_of(None, sections)
    assert notes is not None
    assert (notes.guest_os, notes.virt_base) == ("linux", LINUX_BASE)


def test_segments_before_sections() -> None:
    notes = notes_of(text(6, "segment"), [Sect(".note.Xen", SHT_NOTE, 2, text(6, "section"))])
    assert notes is not None
    assert notes.guest_os == "segment"


def test_legacy_section() -> None:
    content = (
        b"GUEST_OS=Mini-OS,GUEST_VER=1.0,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x2,"
        b"VIRT_ENTRY=0xffffffff80000010,PAE=yes[extended-cr3],BSD_SYMTAB,FEATURES=writable_page_tables|!pae_pgdir_above_4gb,LOADER=generic\0"
    )
    assert notes_of(None, [Sect("__xen_guest", 1, 0, content)]) == XenNotes(
        legacy=True,
        guest_os="Mini-OS",
        guest_version="1.0",
        xen_version="xen-3.0",
        loader="generic",
        pae_mode="yes[extended-cr3]",
        entry=LINUX_BASE + 0x10,
        hypercall_page=LINUX_BASE + 0x2000,
        virt_base=LINUX_BASE,
        paddr_offset=0,
        bsd_symtab=True,
        supported_features=frozenset({0, 4}),
        required_features=frozenset({4}),
    )


@pytest.mark.parametrize("value", ["frog", "", "-1", "0x10000000000000000", "0xzz"])
def test_legacy_number(value: str) -> None:
    with pytest.raises(KernelFormatError, match="VIRT_BASE in its section __xen_guest is no number"):
        notes_of(None, [Sect("__xen_guest", 1, 0, f"LOADER=generic,VIRT_BASE={value}".encode())])


def test_no_notes() -> None:
    assert notes_of() is None


def test_feature_names_are_those_of_the_public_header() -> None:
    assert FEATURE_BITS["writable_page_tables"] == abi_features.XENFEAT_writable_page_tables == 0
    assert FEATURE_BITS["dom0"] == 11
    assert "NR_SUBMAPS" not in FEATURE_BITS


def test_parse_features() -> None:
    assert parse_features("") == (frozenset(), frozenset())
    assert parse_features("a|b|dom0|!highmem_assist") == (frozenset({11, 6}), frozenset({6}))
    with pytest.raises(KernelUnsupportedError, match="'warp'"):
        parse_features("dom0|!warp")


@pytest.mark.parametrize(
    "name",
    [
        "auto_translated_physmap",
        "supervisor_mode_kernel",
        "writable_descriptor_tables",
        "hvm_callback_vector",
        "hvm_safe_pvclock",
        "hvm_pirqs",
        "dom0",
    ],
)
def test_features_that_pv_domains_lack(name: str) -> None:
    with pytest.raises(KernelUnsupportedError, match=f"requires the feature {name}"):
        check_required_features(parse_features(f"!{name}")[1])


def test_features_that_pv_domains_have() -> None:
    """Linux requires writable_page_tables: Xen has it by emulating writes to page tables."""
    check_required_features(
        parse_features("!writable_page_tables|!pae_pgdir_above_4gb|!mmu_pt_update_preserve_ad|!highmem_assist|!gnttab_map_avail_bits")[1]
    )
