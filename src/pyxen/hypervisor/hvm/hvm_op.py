"""hvm_op: parameters and calls of HVM domains about themselves (hvm/hvm_op.h, params.h; Xen's arch/x86/hvm/hvm.c)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi.hvm import hvm_op as abi
from pyxen.abi.hvm import params
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.hvm.container import FIRST_CALLBACK_VECTOR
from pyxen.hypervisor.hvm.p2m import READ_ONLY

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
#: The size of a 32-bit TSS, and the most that one with an interrupt redirection map and a full I/O map, and the octet after it, has.
TSS_SIZE, LARGEST_TSS = 104, 104 + 32 + 8192 + 1
MASK32 = (1 << 32) - 1
#: The largest event number of a trace record by a guest (TRC_SUBCLS_SHIFT).
LAST_TRACE_EVENT = (1 << 12) - 1
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
    if op.index == params.HVM_PARAM_ACPI_IOPORTS_LOCATION:
        return -errno.ENODEV  # there is no ACPI timer
    if op.index == params.HVM_PARAM_CALLBACK_IRQ:
        vcpu.container.set_callback(op.value)
        # Kernels without a hypercall page (Linux since 6.1.120) tell here of how many bits they are.
        vcpu.container.latch_width(vcpu)
    elif op.index == params.HVM_PARAM_X87_FIP_WIDTH and op.value not in (0, 4, 8):
        return -errno.EINVAL
    elif op.index in (params.HVM_PARAM_VM86_TSS, params.HVM_PARAM_VM86_TSS_SIZED):
        return _set_real_mode_tss(vcpu, op)
    vcpu.container.parameters[op.index] = op.value
    return 0


def _set_real_mode_tss(vcpu: HvmVcpu, op: abi.hvm_param) -> int:
    """The TSS that Xen uses for real mode on processors that can't do it. Both parameters are one value. One that can't be costs the
    domain, as on Xen."""
    value: int = op.value
    if op.index == params.HVM_PARAM_VM86_TSS:
        valid = value <= MASK32
        value |= (TSS_SIZE + 24) << 32 if value else 0
    else:
        valid = value >> 32 >= TSS_SIZE
        value = value & MASK32 | min(value >> 32, LARGEST_TSS) << 32
    if not valid:
        vcpu.domain.crash(f"HVM parameter {op.index} set to {op.value:#x}, which is no TSS")
        return -errno.EINVAL
    vcpu.container.parameters[params.HVM_PARAM_VM86_TSS_SIZED] = value
    return 0


def _get_param(vcpu: HvmVcpu, argument: int) -> int:
    op = _parameter(vcpu, argument)
    refusal = _refusal(op.index, READABLE)
    if refusal:
        return refusal
    if op.index == params.HVM_PARAM_VM86_TSS:
        op.value = vcpu.container.parameters[params.HVM_PARAM_VM86_TSS_SIZED] & MASK32
    else:
        op.value = vcpu.container.parameters[op.index]
    guest_access.write_structure(vcpu, argument, op)
    return 0


def _flush_tlbs(vcpu: HvmVcpu, argument: int) -> int:
    if argument:
        return -errno.EINVAL
    vcpu.domain.flush_tlbs_from(vcpu)
    return 0


def _pagetable_dying(vcpu: HvmVcpu, argument: int) -> int:
    """A hint for shadow page tables. There are none, as on a Xen with nested paging, and guests are told, so that they give no more."""
    op = guest_access.read_structure(vcpu, argument, abi.hvm_pagetable_dying)
    try:
        vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    except HypercallError as refusal:
        return -errno.ESRCH if refusal.errno == errno.ESRCH else -errno.EOPNOTSUPP
    return -errno.EINVAL


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


def _xentrace(vcpu: HvmVcpu, argument: int) -> int:
    """A trace record of the guest's. As on a Xen whose trace buffers are off, it goes nowhere."""
    op = guest_access.read_structure(vcpu, argument, abi.hvm_xentrace)
    refused = op.extra_bytes > abi.hvm_xentrace.extra.size or op.event > LAST_TRACE_EVENT
    return -errno.EINVAL if refused else 0


def _get_mem_type(vcpu: HvmVcpu, argument: int) -> int:
    """The type of a page: RAM, RAM that is only read, or nothing."""
    op = guest_access.read_structure(vcpu, argument, abi.hvm_get_mem_type)
    vcpu.hypervisor.check_own_domid(vcpu.domain, op.domid)
    entry = vcpu.container.physical_map.entry(op.pfn)
    if entry is None:
        op.mem_type = abi.HVMMEM_mmio_dm
    else:
        op.mem_type = abi.HVMMEM_ram_ro if entry & READ_ONLY else abi.HVMMEM_ram_rw
    guest_access.write_structure(vcpu, argument, op)
    return 0


def _request_vm_event(vcpu: HvmVcpu, argument: int) -> int:
    """Nobody monitors the domain, so nobody gets it."""
    return -errno.EINVAL if argument else 0


def _altp2m(vcpu: HvmVcpu, argument: int) -> int:
    """Alternate views need a processor that has them."""
    return -errno.EOPNOTSUPP


_OPERATIONS: dict[int, Callable[[HvmVcpu, int], int]] = {
    abi.HVMOP_set_param: _set_param,
    abi.HVMOP_get_param: _get_param,
    abi.HVMOP_flush_tlbs: _flush_tlbs,
    abi.HVMOP_pagetable_dying: _pagetable_dying,
    abi.HVMOP_get_time: _get_time,
    abi.HVMOP_xentrace: _xentrace,
    abi.HVMOP_get_mem_type: _get_mem_type,
    abi.HVMOP_set_evtchn_upcall_vector: _set_upcall_vector,
    abi.HVMOP_guest_request_vm_event: _request_vm_event,
    abi.HVMOP_altp2m: _altp2m,
}
