"""Where everything of a PVH domain is put, and what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyxen.toolstack.builder.errors import MemoryTooSmallError, RamdiskError
from pyxen.toolstack.builder.pvh_builder import PvhPlan, plan_pvh_domain
from pyxen.toolstack.builder.pvh_kernel import PvhKernel, open_pvh_kernel
from pyxen.toolstack.builder.ramdisk import open_ramdisk
from tests.unit.builder.elf_maker import Elf, Load, number, text

PHYS32_ENTRY = 18
MIB = 1 << 20
CODE = b"\xf4" * 5000


def kernel(tmp_path: Path, loads: list[Load]) -> PvhKernel:
    path = tmp_path / "kernel"
    path.write_bytes(Elf(loads, text(6, "test") + number(PHYS32_ENTRY, MIB, 4)).build())
    return open_pvh_kernel(path)


def plan(tmp_path: Path, memory_mib: int, ramdisk_bytes: int = 0, loads: list[Load] | None = None) -> PvhPlan:
    ramdisk = None
    if ramdisk_bytes:
        (tmp_path / "ramdisk").write_bytes(b"r" * ramdisk_bytes)
        ramdisk = open_ramdisk(tmp_path / "ramdisk")
    return plan_pvh_domain(kernel(tmp_path, loads or [Load(CODE, MIB)]), ramdisk, "line", memory_mib << 10, 2)


@pytest.mark.parametrize("memory_mib", [16, 3839, 3840, 3841, 5000])
def test_the_memory_map_has_all_memory_once(tmp_path: Path, memory_mib: int) -> None:
    layout = plan(tmp_path, memory_mib, 10000).layout
    ranges = layout.memory_map
    assert sum(size for _, size, kind in ranges if kind == 1) == memory_mib * MIB
    assert all(first + size <= second for (first, size, _), (second, _, _) in zip(ranges, ranges[1:], strict=False))
    ram = [(start, start + size) for start, size, kind in ranges if kind == 1]
    for start, size in ((layout.ramdisk_address, 10000), (layout.start_info_address, layout.start_info_room)):
        assert any(first <= start and start + size <= end for first, end in ram)
    assert layout.ramdisk_address >= MIB + len(CODE)
    assert layout.start_info_address >= layout.ramdisk_address + 10000


def test_what_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(MemoryTooSmallError, match="too little"):
        plan(tmp_path, 4, loads=[Load(CODE, MIB, memsz=8 * MIB)])
    with pytest.raises(RamdiskError, match="ramdisk"):
        plan(tmp_path, 4, ramdisk_bytes=8 * MIB)
    with pytest.raises(MemoryTooSmallError, match="too little"):
        plan(tmp_path, 16, loads=[Load(CODE, MIB), Load(CODE, 0xF0000000)])
