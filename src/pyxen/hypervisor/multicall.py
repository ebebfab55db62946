"""HYPERVISOR_multicall: a list of hypercalls in one (xen.h: struct multicall_entry)."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from pyxen.abi.xen import (
    HYPERVISOR_console_io,
    HYPERVISOR_event_channel_op,
    HYPERVISOR_grant_table_op,
    HYPERVISOR_iret,
    HYPERVISOR_memory_op,
    HYPERVISOR_mmu_update,
    HYPERVISOR_mmuext_op,
    HYPERVISOR_multicall,
    HYPERVISOR_set_trap_table,
)
from pyxen.hypervisor import guest_access, hypercall_table, traps
from pyxen.hypervisor.preemption import BUDGET, Preempted, Slice

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

#: All of an entry are unsigned longs: number, result, arguments. By the size of these.
_ENTRIES = {8: struct.Struct("<8Q"), 4: struct.Struct("<8I")}
_RESULT, _ARGUMENTS = 1, 2
#: Calls with a list: which argument is its length, in 31 bits.
_LIST_LENGTHS = {HYPERVISOR_mmu_update: 1, HYPERVISOR_mmuext_op: 1, HYPERVISOR_grant_table_op: 2}
LENGTH_MASK = 0x7FFFFFFF
#: Calls whose length only they know.
_LONG_CALLS = frozenset((HYPERVISOR_memory_op, HYPERVISOR_set_trap_table, HYPERVISOR_console_io, HYPERVISOR_event_channel_op))
LONG_CALL = BUDGET // 16


def multicall(vcpu: Vcpu, address: int, count: int) -> int:
    """Run ``count`` entries at ``address``, each result into its entry. -EFAULT when the list can't be read or written.

    HYPERVISOR_iret ends the list: the guest is where it returned to, with the RAX of its frame.
    """
    work, time_slice = 0, Slice()
    entry = _ENTRIES[guest_access.long_size(vcpu)]
    for done in range(count):
        number, _, *arguments = entry.unpack(guest_access.read(vcpu, address, entry.size))
        work += _work(number, arguments)
        if done and (work > BUDGET or time_slice.over):
            raise Preempted(address, count - done)
        if number == HYPERVISOR_iret and not vcpu.is_hvm:
            return _iret(vcpu, address)
        try:
            result = _one(vcpu, number, tuple(arguments))
        except Preempted as inner:
            # The rest of the inner call stays in its entry, and the list goes on with that entry.
            for position, value in enumerate(inner.arguments):
                guest_access.write_long(vcpu, address, value, _ARGUMENTS + position)
            raise Preempted(address, count - done) from None
        guest_access.write_long(vcpu, address, result & (1 << 64) - 1, _RESULT)
        address += entry.size
    return 0


def _iret(vcpu: Vcpu, address: int) -> int:
    """The last call of a list. Its result goes to its entry as far as the address space that it leads to has that."""
    vcpu.domain.count_hypercall(HYPERVISOR_iret)
    try:
        traps.hypercall_iret(vcpu)
    except guest_access.GuestFault as fault:
        vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: HYPERVISOR_iret in a multicall: {fault}")
        return -errno.EFAULT
    result: int = vcpu.state.rax
    with suppress(guest_access.GuestFault):
        guest_access.write_long(vcpu, address, result, _RESULT)
    return result


def _work(number: int, arguments: list[int]) -> int:
    """How much of the budget a call takes: its elements, if it has a list of its own."""
    position = _LIST_LENGTHS.get(number)
    if position is not None:
        return 1 + min(arguments[position] & LENGTH_MASK, BUDGET)
    return LONG_CALL if number in _LONG_CALLS else 1


def _one(vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> int:
    if number == HYPERVISOR_multicall:
        return -errno.EINVAL
    return hypercall_table.call(vcpu, number, arguments)
