"""The code in the hypercall page, as a disassembler reads it."""

from __future__ import annotations

import capstone

from pyxen.abi import xen as abi_xen
from pyxen.toolstack.builder.hypercall_page import hypercall_page


def instructions(entry: int) -> list[str]:
    code = hypercall_page()[entry * 32 : entry * 32 + 32]
    listing = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64).disasm(code, 0)
    return [text for i in listing if (text := f"{i.mnemonic} {i.op_str}".strip()) != "int3"]


def test_size() -> None:
    assert len(hypercall_page()) == 4096


def test_entry() -> None:
    for number in (0, 1, 32, 55, 127):
        load = f"mov eax, {number if number < 10 else hex(number)}"
        assert instructions(number) == ["push rcx", "push r11", load, "syscall", "pop r11", "pop rcx", "ret"]


def test_iret_does_not_return() -> None:
    assert instructions(abi_xen.HYPERVISOR_iret) == ["push rcx", "push r11", "push rax", "mov eax, 0x17", "syscall"]
