"""The kernels that people run: Debian's, and GRUB's PV image, out of the unpacked guest packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyxen.toolstack.builder import MemoryTooSmallError, open_kernel, plan_pv_domain
from pyxen.toolstack.builder.kernel_cache import default_cache_directory
from tests.unit.builder.fake_machine import FakeMachine
from tests.unit.builder.test_pv_builder import build, check_mappings, check_p2m, ramdisk_of, start_info_of


def unpacked(pattern: str) -> Path:
    """A file of the guest packages, which the tests that boot guests fetch."""
    found = sorted((default_cache_directory() / "root").glob(pattern))
    if not found:
        pytest.skip(f"no {pattern} in the cache: run the tests that boot guests first")
    return found[-1]


def check_content(machine: FakeMachine, kernel_path: Path, tmp_path: Path) -> None:
    """The loaded bytes are those of the file, whatever way they came."""
    for segment in open_kernel(kernel_path, cache_directory=tmp_path).segments:
        assert machine.read(segment.start, len(segment.data)) == bytes(segment.data)


def test_debian(tmp_path: Path) -> None:
    path = unpacked("boot/vmlinuz-*")
    kernel = open_kernel(path, cache_directory=tmp_path)
    notes = kernel.notes
    assert (notes.guest_os, notes.loader, notes.xen_version) == ("linux", "generic", "xen-3.0")
    assert (notes.virt_base, notes.init_p2m, notes.mod_start_pfn) == (0xFFFFFFFF80000000, 0x8000000000, True)
    machine, result = build(kernel, 256, ramdisk_of(tmp_path, b"\x1f\x8b" + bytes(range(256)) * 9000))
    code = {
        pfn for s in kernel.segments for a, b in s.executable for pfn in range(result.layout.pfn_of(a), result.layout.pfn_of(b - 1) + 1)
    }
    assert result.layout.pfn_of(kernel.entry) in code
    assert 0 < len(code) < len(result.layout.kernel_pfns) // 2, "most of a Linux kernel is data"
    check_mappings(machine, result, code)
    check_p2m(machine, result)
    check_content(machine, path, tmp_path)
    assert start_info_of(machine).mod_len == 2 + 256 * 9000


def test_debian_in_too_little_memory(tmp_path: Path) -> None:
    kernel = open_kernel(unpacked("boot/vmlinuz-*"), cache_directory=tmp_path)
    with pytest.raises(MemoryTooSmallError, match="32 MiB of memory are too little"):
        plan_pv_domain(kernel, None, "", 32 << 10)


def test_grub(tmp_path: Path) -> None:
    path = unpacked("usr/lib/grub-xen/grub-x86_64-xen.bin")
    kernel = open_kernel(path, cache_directory=tmp_path)
    assert (kernel.virt_base, kernel.entry, kernel.notes.guest_os) == (0, 0, "GRUB")
    machine, result = build(kernel, 64)
    check_mappings(machine, result, set(result.layout.kernel_pfns))
    check_p2m(machine, result)
    check_content(machine, path, tmp_path)
