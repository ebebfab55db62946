"""The layout rules of xen.h's "Start-of-day memory layout", for all kinds of kernels and memory sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.toolstack.builder.elf_notes import XenNotes
from pyxen.toolstack.builder.errors import BuilderError, KernelUnsupportedError, MemoryTooSmallError, RamdiskError
from pyxen.toolstack.builder.image_layout import ImageLayout, lay_out
from pyxen.toolstack.builder.kernel_image import KernelImage
from pyxen.toolstack.builder.ramdisk import Ramdisk
from tests.unit.builder.elf_maker import LINUX_BASE

MIB = 1 << 20
PAGES_PER_MIB = 256
INIT_P2M = 0x8000000000


def kernel(
    *, base: int = LINUX_BASE, first: int = 16 * MIB, size: int = 58 * MIB, init_p2m: int | None = None, unmapped: bool = False
) -> KernelImage:
    notes = XenNotes(virt_base=base, init_p2m=init_p2m, mod_start_pfn=unmapped)
    return KernelImage(Path("vmlinuz"), notes, (), base, base + first, base + first + size, base + first)


def linux(**changes: int) -> KernelImage:
    return kernel(init_p2m=INIT_P2M, unmapped=True, **changes)  # type: ignore[arg-type]


def ramdisk(size: int) -> Ramdisk:
    return Ramdisk(Path("initrd"), size)


def check(layout: ImageLayout, image: KernelImage) -> None:
    """What holds for every layout."""
    inside = [layout.kernel_pfns]
    if layout.ramdisk_mapped:
        inside.append(layout.ramdisk_pfns)
    if not layout.p2m_outside:
        inside.append(layout.p2m_pfns)
    singles = [layout.start_info_pfn, layout.store_pfn, layout.console_pfn]
    inside += [*(range(pfn, pfn + 1) for pfn in singles), layout.table_pfns, range(layout.stack_pfn, layout.stack_pfn + 1)]
    for before, after in zip(inside, inside[1:], strict=False):
        assert before.stop == after.start, "packed, in this order"
    end = layout.virt_base + layout.mapped_pages * 4096
    assert end % (4 * MIB) == 0
    assert (layout.mapped_pages - layout.stack_pfn - 1) * 4096 >= 512 << 10
    assert layout.address_of(layout.kernel_pfns.start) == image.start & ~0xFFF
    regions = {(address >> 21) & ((1 << 27) - 1) for address in range(layout.virt_base, end, 2 * MIB)} | {(end - 1 >> 21) & ((1 << 27) - 1)}
    assert {region for level, region in layout.tables if level == 1} == regions
    assert layout.tables[0] == (4, 0)
    assert len(layout.tables) == len(set(layout.tables)) == len(layout.table_pfns)
    assert len(layout.p2m_pfns) == -(-layout.total_pages * 8 // 4096)
    assert layout.used_pages <= layout.total_pages


@pytest.mark.parametrize("mib", [96, 100, 127, 128, 129, 255, 256, 511, 1000, 1024, 4096, 10_000, 16_384, 65_536])
def test_linux(mib: int) -> None:
    layout = lay_out(linux(), ramdisk(5 * MIB), mib * PAGES_PER_MIB)
    check(layout, linux())
    assert layout.p2m_outside and not layout.ramdisk_mapped
    assert layout.ramdisk_pfns.start == layout.mapped_pages
    assert layout.p2m_pfns.start == layout.ramdisk_pfns.stop
    assert layout.p2m_table_pfns.start == layout.p2m_pfns.stop
    p2m_tables = -(-len(layout.p2m_pfns) // 512)
    assert len(layout.p2m_tables) == len(layout.p2m_table_pfns) == p2m_tables + 2, "L1s, an L2, an L3; the L4 is shared"


@pytest.mark.parametrize("mib", [32, 33, 63, 64, 128, 1000, 4096, 65_536])
def test_p2m_and_ramdisk_inside(mib: int) -> None:
    image = kernel(base=0, first=0, size=6 * MIB + 123)
    layout = lay_out(image, ramdisk(3 * MIB + 1), mib * PAGES_PER_MIB)
    check(layout, image)
    assert layout.ramdisk_mapped and not layout.p2m_outside
    assert layout.p2m_address == layout.p2m_pfns.start * 4096
    assert not layout.p2m_tables


def test_small_p2m_address_shares_no_table_twice() -> None:
    """An INIT_P2M just below the kernel shares the upper tables, and maybe an L1, with the main mapping."""
    image = kernel(init_p2m=LINUX_BASE - 0x200000)
    layout = lay_out(image, None, 128 * PAGES_PER_MIB)
    check(layout, image)
    assert len(layout.p2m_tables) == 2, "an L1 and, over the boundary of a GiB, an L2"
    near = kernel(base=LINUX_BASE + 0x100000, init_p2m=LINUX_BASE)
    assert lay_out(near, None, 128 * PAGES_PER_MIB).p2m_tables == (), "the same L1"


def test_init_p2m_that_does_not_count() -> None:
    """libxenguest ignores one that is not below the kernel, or not the address of a page."""
    for address in (LINUX_BASE + 0x1000, INIT_P2M + 8):
        assert not lay_out(kernel(init_p2m=address), None, 128 * PAGES_PER_MIB).p2m_outside


def test_tables_and_slack_move_the_end() -> None:
    """Ramdisks that end just below and just above a multiple of 4 MiB."""
    image = kernel(first=0, size=MIB)
    ends = set()
    for size in range(MIB, 5 * MIB, 4096):
        layout = lay_out(image, ramdisk(size), 4096 * PAGES_PER_MIB)
        check(layout, image)
        ends.add(layout.mapped_pages)
    assert ends == {3072, 4096}, "each end is reached"


def test_too_small() -> None:
    with pytest.raises(
        MemoryTooSmallError, match=r"32 MiB of memory are too little for kernel vmlinuz: at least 77 MiB.*kernel takes 74 MiB"
    ) as caught:
        lay_out(linux(), None, 32 * PAGES_PER_MIB)
    needed = caught.value.needed_kib // 4
    assert lay_out(linux(), None, needed).used_pages == needed
    with pytest.raises(MemoryTooSmallError):
        lay_out(linux(), None, needed - 1)


def test_ramdisk_larger_than_memory() -> None:
    with pytest.raises(RamdiskError, match=r"ramdisk initrd has 301 MiB, the domain's memory is 256 MiB"):
        lay_out(linux(), ramdisk(300 * MIB + 1), 256 * PAGES_PER_MIB)


def test_ramdisk_too_large_beside_the_kernel() -> None:
    with pytest.raises(MemoryTooSmallError, match="and the ramdisk 200 MiB"):
        lay_out(linux(), ramdisk(200 * MIB), 256 * PAGES_PER_MIB)


def test_mapping_that_meets_the_end_of_the_address_space() -> None:
    with pytest.raises(KernelUnsupportedError, match="would be mapped from 0xffffffff80000000"):
        lay_out(kernel(), ramdisk(2000 * MIB), 4096 * PAGES_PER_MIB)


@pytest.mark.parametrize("base", [0xFFFF800000000000, 0xFFFF87FFFFF00000, 0x7FFFFFF00000, 0x0000900000000000])
def test_addresses_that_are_not_the_guests(base: int) -> None:
    with pytest.raises(KernelUnsupportedError, match="not all the guest's"):
        lay_out(kernel(base=base), None, 256 * PAGES_PER_MIB)
    with pytest.raises(KernelUnsupportedError, match=r"not all the guest's|into the kernel"):
        lay_out(kernel(init_p2m=base), None, 65536 * PAGES_PER_MIB)


@given(
    st.integers(8, 1 << 18).map(lambda pages: pages * 64),
    st.integers(0, 1 << 30),
    st.integers(0, 64 * MIB),
    st.integers(1, 64 * MIB),
    st.booleans(),
    st.booleans(),
    st.sampled_from([0, 0x100000, 0x40000000, LINUX_BASE, 0xFFFF880000000000]),
)
def test_any(total_pages: int, ramdisk_size: int, first: int, size: int, unmapped: bool, outside: bool, base: int) -> None:
    image = kernel(base=base, first=first, size=size, unmapped=unmapped, init_p2m=INIT_P2M if outside and base > INIT_P2M else None)
    try:
        layout = lay_out(image, ramdisk(ramdisk_size) if ramdisk_size else None, total_pages)
    except BuilderError:
        return
    check(layout, image)
    assert layout.p2m_outside == (image.notes.init_p2m is not None)
