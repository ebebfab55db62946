"""A kernel as a programmer makes one, with assembler and linker: notes in a section of their own, a hypercall page, a bss."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pyxen.toolstack.builder import open_kernel
from pyxen.toolstack.builder.hypercall_page import hypercall_page
from tests.unit.builder.test_pv_builder import build, check_mappings, check_p2m, start_info_of

CODE = """
    .text
    .globl _start
_start: mov %rsi, saved(%rip)
1:      jmp 1b
    .balign 4096
    .globl hypercalls
hypercalls: .fill 4096, 1, 0xcc
    .data
message: .asciz "hello from data"
    .bss
saved:  .quad 0
        .skip 20000
"""

NOTES = """
    .macro note type, value:vararg
    .balign 4
    .long 4, 2f - 1f, \\type
    .asciz "Xen"
1:  \\value
2:  .balign 4
    .endm
    .section .note.Xen, "a", @note
    note 6, .asciz "Mini-OS"
    note 5, .asciz "xen-3.0"
    note 8, .asciz "generic"
    note 3, .quad 0
    note 2, .quad hypercalls
    note 10, .asciz "writable_page_tables|pae_pgdir_above_4gb"
"""

LEGACY = """
    .section __xen_guest
    .ascii "GUEST_OS=Mini-OS,XEN_VER=xen-3.0,VIRT_BASE=0x0,ELF_PADDR_OFFSET=0x0,HYPERCALL_PAGE=0x101,PAE=yes,LOADER=generic"
    .byte 0
"""


@pytest.mark.parametrize("notes", [NOTES, LEGACY], ids=["notes", "legacy"])
def test_linked(tmp_path: Path, notes: str) -> None:
    source, linked = tmp_path / "kernel.S", tmp_path / "kernel"
    source.write_text(CODE + notes)
    options = ["-nostdlib", "-static", "-Wl,--build-id=none,-z,max-page-size=4096,-z,noexecstack,-Ttext=0x100000,-N"]
    subprocess.run(["gcc", *options, "-o", linked, source], check=True, timeout=60)
    kernel = open_kernel(linked, cache_directory=tmp_path)
    assert kernel.notes.guest_os == "Mini-OS"
    assert kernel.entry == 0x100000
    machine, result = build(kernel, 32)
    check_mappings(machine, result, {0x100, 0x101})
    check_p2m(machine, result)
    assert machine.read(0x101000, 4096) == hypercall_page()
    image = machine.read(kernel.start, kernel.end - kernel.start)
    assert b"hello from data\0" in image
    assert bytes(20000) in image
    assert start_info_of(machine).cmd_line == b"console=hvc0"
