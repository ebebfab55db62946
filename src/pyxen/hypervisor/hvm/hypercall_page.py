"""The page of hypercall stubs that a guest asks for by MSR 0x40000000 (Xen's hvm_init_hypercall_page): entry n is at octet 32 * n."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyxen.abi.xen import HYPERVISOR_iret

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

ENTRIES, ENTRY_BYTES = 128, 32
_VMCALL_VENDORS = (b"GenuineIntel", b"CentaurHauls", b"  Shanghai  ")
_VMCALL, _VMMCALL, _RET, _UD2, _INT3 = b"\x0f\x01\xc1", b"\x0f\x01\xd9", b"\xc3", b"\x0f\x0b", b"\xcc"


def content(vendor: bytes) -> bytes:
    """The whole page; the call instruction is that of the processor's vendor. HYPERVISOR_iret is nothing that such a guest may use."""
    call = _VMCALL if vendor in _VMCALL_VENDORS else _VMMCALL
    page = b""
    for number in range(ENTRIES):
        stub = _UD2 if number == HYPERVISOR_iret else b"\xb8" + struct.pack("<I", number) + call + _RET
        page += stub.ljust(ENTRY_BYTES, _INT3)
    return page


def place(vcpu: HvmVcpu, value: int) -> bool:
    """Write of the MSR: the page's guest physical address, with the page's number, 0, in the low 12 bits. False (#GP) for any other page
    and for an address without writable memory."""
    machine = vcpu.container.physical_map.machine_address(value & ~0xFFF, write=True)
    if value & 0xFFF or machine is None:
        return False
    vcpu.container.latch_width(vcpu)
    _, ebx, ecx, edx = vcpu.domain.cpuid.query(0, 0, vcpu)
    vcpu.octets[machine : machine + 4096] = content(struct.pack("<3I", ebx, edx, ecx))
    vcpu.hypervisor.note_write(machine >> 12)
    return True
