"""hvm_op: parameters and calls of HVM domains about themselves (hvm/hvm_op.h, params.h; Xen's arch/x86/hvm/hvm.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi.hvm import hvm_op as abi
from pyxen.abi.hvm import params
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hvm.container import FIRST_CALLBACK_VECTOR

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu
    from pyxen.hypervisor.vcpu import Vcpu

#: What a guest may set of its own domain, and what it may read besides (hvm_allow_set_param, hvm_allow_get_param). The rest is Domain 0's.
SETTABLE = frozenset(
    (
        params.HVM_PARAM_CALLBACK_IRQ,
        params.HVM_PARAM_VM86_TSS,
        params.HVM_PARAM_VM86_TSS_SIZED,
        params.HVM_PARAM_ACPI_IOPORTS_LOCATION,
        params.HVM_PARAM_VM_GENERATION_ID_ADDR,
        params.HVM_PARAM_STORE_EVTCHN,
        params.HVM_PARAM_CONSOLE_EVTCHN,
        params.HVM_PARAM_X87_FIP_WIDTH,
    )
)
READABLE = SETTABLE | {params.HVM_PARAM_STORE_PFN, params.HVM_PARAM_CONSOLE_PFN, params.HVM_PARAM_ALTP2M}
#: Numbers that parameters had in older versions.
RETIRED = frozenset((3, 7, 8, *range(20, 24), 25, 30))


def hvm_op(vcpu: HvmVcpu, command: int, argument: int) -> int:
    """-ENOSYS for a command that is not there."""
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"hvm_op {command}")
        return -errno.ENOSYS
    return operation(vcpu, argument)


def _parameter(vcpu: Vcpu, argument: int) -> abi.hvm_param:
    op = guest_access.read_structure(vcpu, argument, abi.hvm_param)
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    return op


def _refusal(index: int, allowed: frozenset[int]) -> int:
    if index >= params.HVM_NR_PARAMS or index in RETIRED:
        return -errno.EINVAL
    return 0 if index in allowed else -errno.EPERM


def _set_param(vcpu: HvmVcpu, argument: int) -> int:
    op = _parameter(vcpu, argument)
    refusal = _refusal(op.index, SETTABLE)
    if refusal:
        return refusal
    if op.index == params.HVM_PARAM_CALLBACK_IRQ:
        vcpu.container.set_callback(op.value)
        vcpu.container.latch_width(vcpu)
    elif op.index == params.HVM_PARAM_X87_FIP_WIDTH and op.value not in (0, 4, 8):
        return -errno.EINVAL
    vcpu.container.parameters[op.index] = op.value
    return 0


def _get_param(vcpu: HvmVcpu, argument: int) -> int:
    op = _parameter(vcpu, argument)
    refusal = _refusal(op.index, READABLE)
    if refusal:
        return refusal
    op.value = vcpu.container.parameters[op.index]
    guest_access.write_structure(vcpu, argument, op)
    return 0


def _flush_tlbs(vcpu: HvmVcpu, argument: int) -> int:
    if argument:
        return -errno.EINVAL
    vcpu.domain.flush_tlbs_from(vcpu)
    return 0


def _pagetable_dying(vcpu: HvmVcpu, argument: int) -> int:
    """A hint for shadow page tables, of which there are none. As on Xen, it must name the caller."""
    op = guest_access.read_structure(vcpu, argument, abi.hvm_pagetable_dying)
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    return 0


def _get_time(vcpu: HvmVcpu, argument: int) -> int:
    guest_access.write_structure(vcpu, argument, abi.hvm_get_time(vcpu.hypervisor.now()))
    return 0


def _set_upcall_vector(vcpu: HvmVcpu, argument: int) -> int:
    op = guest_access.read_structure(vcpu, argument, abi.hvm_evtchn_upcall_vector)
    siblings = vcpu.siblings()
    if op.vector < FIRST_CALLBACK_VECTOR:
        return -errno.EINVAL
    if op.vcpu >= len(siblings):
        return -errno.ENOENT
    siblings[op.vcpu].upcall_vector = op.vector
    return 0


_OPERATIONS: dict[int, Callable[[HvmVcpu, int], int]] = {
    abi.HVMOP_set_param: _set_param,
    abi.HVMOP_get_param: _get_param,
    abi.HVMOP_flush_tlbs: _flush_tlbs,
    abi.HVMOP_pagetable_dying: _pagetable_dying,
    abi.HVMOP_get_time: _get_time,
    abi.HVMOP_set_evtchn_upcall_vector: _set_upcall_vector,
}
