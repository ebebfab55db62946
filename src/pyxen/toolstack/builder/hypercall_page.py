"""The hypercall transfer page of a PV64 domain: 128 entries of 32 bytes, entry n makes hypercall n.

A kernel that has XEN_ELFNOTE_HYPERCALL_PAGE calls into this page. The calling convention (public arch-x86/xen-x86_64.h): number in
RAX, arguments in RDI, RSI, RDX, R10, R8, R9; ``syscall`` destroys RCX and R11, so the entry saves them. iret does not
return: its entry builds the head of struct iret_context (rax, r11, rcx, ...) on the stack instead.
"""

from __future__ import annotations

from pyxen.abi import xen as abi_xen

PAGE_SIZE = 4096
ENTRY_SIZE = 32

_PUSH_RCX, _POP_RCX = b"\x51", b"\x59"
_PUSH_R11, _POP_R11 = b"\x41\x53", b"\x41\x5b"
_PUSH_RAX = b"\x50"
_MOV_EAX = b"\xb8"
_SYSCALL = b"\x0f\x05"
_RET = b"\xc3"
_INT3 = b"\xcc"


def _entry(number: int) -> bytes:
    load_number = _MOV_EAX + number.to_bytes(4, "little")
    if number == abi_xen.HYPERVISOR_iret:
        code = _PUSH_RCX + _PUSH_R11 + _PUSH_RAX + load_number + _SYSCALL
    else:
        code = _PUSH_RCX + _PUSH_R11 + load_number + _SYSCALL + _POP_R11 + _POP_RCX + _RET
    return code.ljust(ENTRY_SIZE, _INT3)


def hypercall_page() -> bytes:
    """The content of the page, 4096 bytes."""
    return b"".join(_entry(number) for number in range(PAGE_SIZE // ENTRY_SIZE))
