"""Whole domains built into a machine of plain memory, and looked at as the guest would: through its page tables."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from pyxen.abi import xen as abi_xen
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.toolstack.builder import (
    BuildResult,
    CommandLineError,
    HostMemoryError,
    KernelImage,
    MemoryTooSmallError,
    Ramdisk,
    RamdiskError,
    build_pv_domain,
    open_kernel,
    open_ramdisk,
    plan_pv_domain,
)
from pyxen.toolstack.builder.hypercall_page import hypercall_page
from tests.unit.builder.elf_maker import ALLOC, EXEC, LINUX_BASE, Elf, Load, R, Sect, W, X, number, small_kernel, standard_notes, text
from tests.unit.builder.fake_machine import PAGE, SHARED_INFO_MFN, FakeMachine

MIB_IN_KIB = 1024
CODE = LINUX_BASE + 0x1000000
INIT_P2M = 0x8000000000
UNMAPPED = number(16, 1, 4)


def kernel_of(tmp_path: Path, content: bytes) -> KernelImage:
    path = tmp_path / "kernel"
    path.write_bytes(content)
    return open_kernel(path, cache_directory=tmp_path)


def ramdisk_of(tmp_path: Path, content: bytes) -> Ramdisk:
    path = tmp_path / "initrd"
    path.write_bytes(content)
    return open_ramdisk(path)


def build(
    kernel: KernelImage, mib: int, ramdisk: Ramdisk | None = None, command_line: str = "console=hvc0", **options: int
) -> tuple[FakeMachine, BuildResult]:
    machine = FakeMachine(frames=mib * 256 + 1000)
    plan = plan_pv_domain(kernel, ramdisk, command_line, mib * MIB_IN_KIB)
    return machine, build_pv_domain(machine, machine.domid, plan, **options)  # type: ignore[arg-type]


def start_info_of(machine: FakeMachine) -> abi_xen.start_info:
    assert machine.registers is not None
    return abi_xen.start_info.from_buffer_copy(machine.read(machine.registers.rsi, ctypes.sizeof(abi_xen.start_info)))


def check_mappings(machine: FakeMachine, result: BuildResult, executable: set[int]) -> None:
    """Every page of the initial mapping: which frame, who may do what; and nothing around it."""
    layout = result.layout
    for pfn in range(layout.mapped_pages):
        translation = machine.translate(layout.address_of(pfn))
        assert translation is not None
        assert translation.mfn == machine.given[pfn]
        assert translation.writable == (pfn not in layout.table_pfns)
        assert translation.executable == (pfn in executable)
    if layout.p2m_outside:
        for number_, pfn in enumerate(layout.p2m_pfns):
            translation = machine.translate(layout.p2m_address + number_ * PAGE)
            assert translation is not None
            assert (translation.mfn, translation.writable, translation.executable) == (machine.given[pfn], True, False)
        assert machine.translate(layout.p2m_address - PAGE) is None
        assert machine.translate(layout.p2m_address + len(layout.p2m_pfns) * PAGE) is None
    if layout.virt_base:
        assert machine.translate(layout.virt_base - PAGE) is None
    assert machine.translate(layout.address_of(layout.mapped_pages)) is None


def check_p2m(machine: FakeMachine, result: BuildResult) -> None:
    address, pages = result.layout.p2m_address, result.layout.total_pages
    assert machine.read(address, pages * 8) == machine.given.tobytes()
    assert machine.p2m.tobytes() == machine.given.tobytes()
    rest = -pages * 8 % PAGE
    assert machine.read(address + pages * 8, rest) == bytes(rest)


def test_small_kernel(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, small_kernel())
    machine, result = build(kernel, 32)
    layout = result.layout
    check_mappings(machine, result, {0x1000, 0x1001})
    check_p2m(machine, result)
    assert machine.read(CODE, 0x2000) == b"\xf4" * 5000 + bytes(0x2000 - 5000)
    assert machine.read(CODE + 0x2000, 0x3000) == b"data" * 100 + bytes(0x3000 - 400)
    assert machine.mapped == 0
    registers = machine.registers
    assert registers is not None
    assert registers.rip == CODE + 0x10
    assert registers.rsi == layout.address_of(layout.start_info_pfn)
    assert registers.rsp == layout.address_of(layout.stack_pfn + 1)
    assert registers.cr3_mfn == machine.given[layout.table_pfns.start]
    assert registers.rflags == 0x200


def test_start_info(tmp_path: Path) -> None:
    content = os.urandom(10000)
    kernel = kernel_of(tmp_path, small_kernel())
    machine, result = build(kernel, 32, ramdisk_of(tmp_path, content), "root=/dev/xvda1 \u00e9")
    layout, info = result.layout, start_info_of(machine)
    assert info.magic == b"xen-3.0-x86_64"
    assert info.nr_pages == 32 * 256
    assert info.shared_info == SHARED_INFO_MFN * PAGE
    assert info.flags == abi_xen.SIF_VIRT_P2M_4TOOLS
    assert (info.store_mfn, info.store_evtchn) == (result.store_mfn, result.store_port) == (machine.given[layout.store_pfn], 1)
    assert (info.console.domU.mfn, info.console.domU.evtchn) == (result.console_mfn, result.console_port)
    assert (result.console_mfn, result.console_port) == (machine.given[layout.console_pfn], 2)
    assert info.pt_base == layout.address_of(layout.table_pfns.start)
    assert info.nr_pt_frames == 1 + 1 + 1 + layout.mapped_pages // 512
    assert info.mfn_list == layout.p2m_address
    assert (info.first_p2m_pfn, info.nr_p2m_frames) == (0, 0), "only for a P2M outside of the mapping"
    assert info.mod_len == 10000
    assert machine.read(info.mod_start, 10000) == content
    assert info.cmd_line == "root=/dev/xvda1 é".encode()


def test_grants_and_channels(tmp_path: Path) -> None:
    machine, result = build(kernel_of(tmp_path, small_kernel()), 32, store_domid=3, console_domid=4)
    assert machine.ports == [3, 4]
    assert machine.grants == {0: (4, result.console_mfn), 1: (3, result.store_mfn)}
    assert machine.pfn_content(result.layout.store_pfn) == bytes(PAGE)
    assert machine.pfn_content(result.layout.console_pfn) == bytes(PAGE)


def test_maximum(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, small_kernel())
    assert build(kernel, 32)[0].max_pages == 33 * 256
    assert build(kernel, 32, max_memory_kib=64 * MIB_IN_KIB)[0].max_pages == 65 * 256


def test_ramdisk_outside_of_the_mapping(tmp_path: Path) -> None:
    content = os.urandom(3 << 20) + b"end"
    machine, result = build(kernel_of(tmp_path, small_kernel(extra=UNMAPPED)), 64, ramdisk_of(tmp_path, content))
    layout, info = result.layout, start_info_of(machine)
    check_mappings(machine, result, {0x1000, 0x1001})
    assert info.flags == abi_xen.SIF_VIRT_P2M_4TOOLS | abi_xen.SIF_MOD_START_PFN
    assert info.mod_start == layout.ramdisk_pfns.start >= layout.mapped_pages
    loaded = b"".join(machine.pfn_content(pfn) for pfn in layout.ramdisk_pfns)
    assert loaded.rstrip(b"\0") == content


def test_no_ramdisk(tmp_path: Path) -> None:
    info = start_info_of(build(kernel_of(tmp_path, small_kernel(extra=UNMAPPED)), 32)[0])
    assert (info.mod_start, info.mod_len, info.flags) == (0, 0, abi_xen.SIF_VIRT_P2M_4TOOLS)


@pytest.mark.parametrize("mib", [32, 100, 1024, 4096])
def test_p2m_outside_of_the_mapping(tmp_path: Path, mib: int) -> None:
    machine, result = build(kernel_of(tmp_path, small_kernel(extra=UNMAPPED + number(15, INIT_P2M))), mib)
    layout, info = result.layout, start_info_of(machine)
    check_mappings(machine, result, {0x1000, 0x1001})
    check_p2m(machine, result)
    assert info.mfn_list == INIT_P2M
    assert info.first_p2m_pfn == layout.p2m_pfns.start
    assert info.nr_p2m_frames == len(layout.p2m_pfns) + len(layout.p2m_tables)
    assert info.nr_pt_frames == len(layout.tables)


def test_p2m_that_shares_tables_with_the_kernel(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, small_kernel(extra=number(15, LINUX_BASE - 0x10000)))
    machine, result = build(kernel, 32)
    check_mappings_of_shared = [machine.translate(LINUX_BASE - 0x10000 + page * PAGE) for page in range(16)]
    assert [t.mfn for t in check_mappings_of_shared if t] == [machine.given[pfn] for pfn in result.layout.p2m_pfns]
    check_p2m(machine, result)


def test_64_gib(tmp_path: Path) -> None:
    machine, result = build(kernel_of(tmp_path, small_kernel(extra=UNMAPPED + number(15, INIT_P2M))), 65536)
    layout = result.layout
    assert len(layout.p2m_pfns) == 32768
    assert len(layout.p2m_tables) == 64 + 1 + 1
    last = machine.translate(INIT_P2M + 32767 * PAGE)
    assert last is not None
    assert last.mfn == machine.given[layout.p2m_pfns[-1]]
    assert machine.memory[last.mfn].tobytes() == machine.given[-512:].tobytes()
    assert machine.translate(INIT_P2M + 32768 * PAGE) is None


def test_grub_style(tmp_path: Path) -> None:
    """Base 0, segments that share a page, a note for the hypercall page, no word on what is code."""
    loads = [
        Load(b"\x90" * 0x1234, 0, memsz=0x6F00, flags=R | W | X),
        Load(b"M" * 0x2345, 0x6F00, flags=R | W | X),
        Load(b"tail", 0x6F00 + 0x2345, memsz=0x100, flags=R | W),
    ]
    notes = text(6, "GRUB") + text(8, "generic") + text(5, "xen-3.0") + number(1, 0) + number(3, 0) + number(2, 0x3000)
    machine, result = build(kernel_of(tmp_path, Elf(loads, notes).build()), 64)
    check_mappings(machine, result, set(range(10)))
    content = bytearray(b"\x90" * 0x1234 + bytes(0x6F00 - 0x1234) + b"M" * 0x2345 + b"tail")
    content[0x3000:0x4000] = hypercall_page()
    assert machine.read(0, len(content)) == content
    assert machine.registers is not None
    assert machine.registers.rip == 0


def test_hypercall_page_is_executable(tmp_path: Path) -> None:
    """Even when the sections call it data."""
    loads = [Load(b"\xf4" * 0x3000, 0x1000000)]
    sections = [Sect(".text", 1, ALLOC | EXEC, inside=(0, 0, 0x1000))]
    kernel = kernel_of(tmp_path, Elf(loads, standard_notes(entry=CODE, extra=number(2, CODE + 0x2000)), sections).build())
    machine, result = build(kernel, 32)
    check_mappings(machine, result, {0x1000, 0x1002})
    assert machine.read(CODE + 0x2000, PAGE) == hypercall_page()
    assert machine.read(CODE, 0x2000) == b"\xf4" * 0x2000


def test_legacy_notes(tmp_path: Path) -> None:
    """Without ELF_PADDR_OFFSET the physical addresses are the virtual ones; the hypercall page is given as a page number."""
    strings = f"GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE={LINUX_BASE:#x},HYPERCALL_PAGE=0x2,PAE=yes,LOADER=generic\0"
    loads = [Load(b"\xf4" * 0x3000, LINUX_BASE)]
    elf = Elf(loads, None, [Sect("__xen_guest", 1, 0, strings.encode())], entry=LINUX_BASE + 8)
    machine, result = build(kernel_of(tmp_path, elf.build()), 32)
    check_mappings(machine, result, {0, 1, 2})
    assert machine.read(LINUX_BASE, 0x3000) == b"\xf4" * 0x2000 + hypercall_page()
    assert machine.registers is not None
    assert machine.registers.rip == LINUX_BASE + 8


def test_zero_pages_are_not_written(tmp_path: Path) -> None:
    """They are zero already, and writing them would make the host pay for them."""
    data = b"a" * PAGE + bytes(100 * PAGE) + b"b" * PAGE + bytes(100 * PAGE) + bytes(5)
    kernel = kernel_of(tmp_path, Elf([Load(data, 0x1000000)], standard_notes(entry=CODE)).build())
    machine = FakeMachine(frames=10000)
    plan = plan_pv_domain(kernel, None, "", 32 * MIB_IN_KIB)
    written: list[int] = []
    write_foreign = machine.write_foreign
    machine.write_foreign = lambda domid, mfns, content: (written.append(len(mfns)), write_foreign(domid, mfns, content))[1]  # type: ignore[method-assign]
    build_pv_domain(machine, machine.domid, plan)  # type: ignore[arg-type]
    assert written[:2] == [1, 1]
    assert machine.read(CODE, len(data)) == data


def test_command_line_length(tmp_path: Path) -> None:
    kernel = kernel_of(tmp_path, small_kernel())
    machine, _ = build(kernel, 32, command_line="x" * 1023)
    assert start_info_of(machine).cmd_line == b"x" * 1023
    with pytest.raises(CommandLineError, match="has 1024 bytes; Xen passes at most 1023"):
        plan_pv_domain(kernel, None, "x" * 1024, 32 * MIB_IN_KIB)
    with pytest.raises(CommandLineError, match="has 1024 bytes"):
        plan_pv_domain(kernel, None, "é" * 512, 32 * MIB_IN_KIB)
    with pytest.raises(CommandLineError, match="NUL"):
        plan_pv_domain(kernel, None, "a\0b", 32 * MIB_IN_KIB)


@pytest.mark.parametrize("kib", [0, 3, -5, 4, 16 * MIB_IN_KIB])
def test_too_little_memory(tmp_path: Path, kib: int) -> None:
    with pytest.raises(MemoryTooSmallError) as caught:
        plan_pv_domain(kernel_of(tmp_path, small_kernel()), None, "", kib)
    assert caught.value.needed_kib > kib


def test_host_without_memory(tmp_path: Path) -> None:
    plan = plan_pv_domain(kernel_of(tmp_path, small_kernel()), None, "", 32 * MIB_IN_KIB)
    machine = FakeMachine(frames=10000, free=100)
    with pytest.raises(HostMemoryError, match="not enough free memory for a domain of 32 MiB"):
        build_pv_domain(machine, machine.domid, plan)  # type: ignore[arg-type]


def test_other_refusals_pass(tmp_path: Path) -> None:
    plan = plan_pv_domain(kernel_of(tmp_path, small_kernel()), None, "", 32 * MIB_IN_KIB)
    machine = FakeMachine(frames=10000)

    def refuse(domid: int, count: int) -> list[int]:
        raise HypercallError(3, "no such domain")

    machine.populate_physmap = refuse  # type: ignore[method-assign, assignment]
    with pytest.raises(HypercallError):
        build_pv_domain(machine, machine.domid, plan)  # type: ignore[arg-type]


def test_ramdisk_that_vanishes(tmp_path: Path) -> None:
    ramdisk = ramdisk_of(tmp_path, b"content")
    plan = plan_pv_domain(kernel_of(tmp_path, small_kernel()), ramdisk, "", 32 * MIB_IN_KIB)
    ramdisk.path.unlink()
    machine = FakeMachine(frames=10000)
    with pytest.raises(RamdiskError, match="no such file"):
        build_pv_domain(machine, machine.domid, plan)  # type: ignore[arg-type]
