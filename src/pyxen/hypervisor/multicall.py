"""HYPERVISOR_multicall: a list of hypercalls in one (xen.h: struct multicall_entry)."""

from __future__ import annotations

import ctypes
import errno
import struct
from typing import TYPE_CHECKING

from pyxen.abi.xen import HYPERVISOR_iret, HYPERVISOR_multicall, multicall_entry
from pyxen.hypervisor import guest_access, hypercall_table
from pyxen.hypervisor.preemption import BUDGET, Preempted

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

SIZE = ctypes.sizeof(multicall_entry)
RESULT_OFFSET: int = multicall_entry.result.offset
ARGUMENTS_OFFSET: int = multicall_entry.args.offset
_ENTRY = struct.Struct("<8Q")


def multicall(vcpu: Vcpu, address: int, count: int) -> int:
    """Run ``count`` entries at ``address``, each result into its entry. -EFAULT when the list can't be read or written."""
    count &= 0xFFFFFFFF
    for done in range(count):
        if done == BUDGET:
            raise Preempted(address, count - done)
        number, _, *arguments = _ENTRY.unpack(guest_access.read(vcpu, address, SIZE))
        try:
            result = _one(vcpu, number, tuple(arguments))
        except Preempted as inner:
            # The rest of the inner call stays in its entry, and the list goes on with that entry.
            left = struct.pack(f"<{len(inner.arguments)}Q", *inner.arguments)
            guest_access.write(vcpu, address + ARGUMENTS_OFFSET, left)
            raise Preempted(address, count - done) from None
        guest_access.write_word(vcpu, address + RESULT_OFFSET, result & (1 << 64) - 1)
        address += SIZE
    return 0


def _one(vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> int:
    if number == HYPERVISOR_multicall:
        return -errno.EINVAL
    if number == HYPERVISOR_iret:
        return -errno.ENOSYS
    return hypercall_table.call(vcpu, number, arguments)
