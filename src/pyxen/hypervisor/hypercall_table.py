"""The one table of all hypercalls: number, name, handler, how many arguments, who may call, which kinds of guests have it.
And the dispatch that it makes.

What is not in the table answers -ENOSYS and is logged once per domain. A handler copies its arguments in, calls a typed function, copies
the result out; it refuses with ``HypercallError`` (answered as the negative errno) or ``GuestFault`` (-EFAULT).
"""

from __future__ import annotations

import errno
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyxen.abi import xen
from pyxen.engine.interface import CpuState
from pyxen.hypervisor import (
    callback_op,
    console_io,
    control_op,
    cpu_ops,
    event_channel_op,
    grant_table_op,
    memory_op,
    mmu_ops,
    multicall,
    physdev_op,
    sched_op,
    traps,
    vcpu_op,
    xen_version,
)
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.guest_access import GuestFault
from pyxen.hypervisor.hooks import HypercallEvent
from pyxen.hypervisor.hvm.hvm_op import hvm_op
from pyxen.hypervisor.preemption import Preempted

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

MASK32, MASK64 = (1 << 32) - 1, (1 << 64) - 1
#: The kinds of guests that have a hypercall.
PV, HVM, BOTH = frozenset((False,)), frozenset((True,)), frozenset((False, True))


@dataclass(frozen=True, slots=True)
class Hypercall:
    """One line of the table. ``guests``: which kinds have it, by ``Vcpu.is_hvm``; for the others it is not there.
    ``privileged``: only Domain 0; others get -EPERM. ``narrow``: which arguments Xen declares as (unsigned) int,
    so that their upper 32 bits mean nothing (xen/include/hypercall-defs.c). ``wide``: it has one argument of 64 bits, which a 32-bit
    caller passes in two."""

    number: int
    name: str
    handler: Callable[..., int] | None
    arguments: int
    privileged: bool = False
    narrow: tuple[int, ...] = ()
    wide: bool = False
    guests: frozenset[bool] = BOTH


HYPERCALLS = (
    Hypercall(xen.HYPERVISOR_set_trap_table, "set_trap_table", cpu_ops.set_trap_table, 1, guests=PV),
    Hypercall(xen.HYPERVISOR_mmu_update, "mmu_update", mmu_ops.mmu_update, 4, narrow=(1, 3), guests=PV),
    Hypercall(xen.HYPERVISOR_set_gdt, "set_gdt", cpu_ops.set_gdt, 2, narrow=(1,), guests=PV),
    Hypercall(xen.HYPERVISOR_stack_switch, "stack_switch", cpu_ops.stack_switch, 2, guests=PV),
    Hypercall(xen.HYPERVISOR_set_callbacks, "set_callbacks", callback_op.set_callbacks, 3, guests=PV),
    Hypercall(xen.HYPERVISOR_fpu_taskswitch, "fpu_taskswitch", cpu_ops.fpu_taskswitch, 1, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_sched_op_compat, "sched_op_compat", sched_op.sched_op_compat, 2, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_platform_op, "platform_op", control_op.platform_op, 1, privileged=True),
    Hypercall(xen.HYPERVISOR_set_debugreg, "set_debugreg", cpu_ops.set_debugreg, 2, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_get_debugreg, "get_debugreg", cpu_ops.get_debugreg, 1, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_update_descriptor, "update_descriptor", cpu_ops.update_descriptor, 2, guests=PV),
    Hypercall(xen.HYPERVISOR_memory_op, "memory_op", memory_op.memory_op, 2),
    Hypercall(xen.HYPERVISOR_multicall, "multicall", multicall.multicall, 2, narrow=(1,)),
    Hypercall(xen.HYPERVISOR_update_va_mapping, "update_va_mapping", mmu_ops.update_va_mapping, 3, guests=PV),
    Hypercall(xen.HYPERVISOR_set_timer_op, "set_timer_op", sched_op.set_timer_op, 1, wide=True),
    Hypercall(xen.HYPERVISOR_xen_version, "xen_version", xen_version.xen_version, 2, narrow=(0,)),
    Hypercall(xen.HYPERVISOR_console_io, "console_io", console_io.console_io, 3, narrow=(0, 1)),
    Hypercall(xen.HYPERVISOR_grant_table_op, "grant_table_op", grant_table_op.grant_table_op, 3, narrow=(0, 2)),
    Hypercall(xen.HYPERVISOR_vm_assist, "vm_assist", cpu_ops.vm_assist, 2, narrow=(0, 1)),
    Hypercall(
        xen.HYPERVISOR_update_va_mapping_otherdomain,
        "update_va_mapping_otherdomain",
        mmu_ops.update_va_mapping_otherdomain,
        4,
        narrow=(3,),
        guests=PV,
    ),
    Hypercall(xen.HYPERVISOR_iret, "iret", None, 0, guests=PV),
    Hypercall(xen.HYPERVISOR_vcpu_op, "vcpu_op", vcpu_op.vcpu_op, 3, narrow=(0, 1)),
    Hypercall(xen.HYPERVISOR_set_segment_base, "set_segment_base", cpu_ops.set_segment_base, 2, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_mmuext_op, "mmuext_op", mmu_ops.mmuext_op, 4, narrow=(1, 3), guests=PV),
    Hypercall(xen.HYPERVISOR_nmi_op, "nmi_op", callback_op.nmi_op, 2, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_sched_op, "sched_op", sched_op.sched_op, 2, narrow=(0,)),
    Hypercall(xen.HYPERVISOR_callback_op, "callback_op", callback_op.callback_op, 2, narrow=(0,), guests=PV),
    Hypercall(xen.HYPERVISOR_event_channel_op, "event_channel_op", event_channel_op.event_channel_op, 2, narrow=(0,)),
    Hypercall(xen.HYPERVISOR_physdev_op, "physdev_op", physdev_op.physdev_op, 2, narrow=(0,)),
    Hypercall(xen.HYPERVISOR_hvm_op, "hvm_op", hvm_op, 2, guests=HVM),
    Hypercall(xen.HYPERVISOR_sysctl, "sysctl", control_op.sysctl, 1, privileged=True),
    Hypercall(xen.HYPERVISOR_domctl, "domctl", control_op.domctl, 1, privileged=True),
)
TABLE = {entry.number: entry for entry in HYPERCALLS}
_ARGUMENT_REGISTERS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")
#: Those of 32-bit code, of which only the lower halves count.
_NARROW_REGISTERS = ("rbx", "rcx", "rdx", "rsi", "rdi", "rbp")


def _getter(count: int) -> Callable[[CpuState], tuple[int, ...]]:
    """Reads the first ``count`` argument registers as a tuple."""
    if count == 0:
        return lambda state: ()
    if count == 1:
        return lambda state: (state.rdi,)
    return operator.attrgetter(*_ARGUMENT_REGISTERS[:count])


_GETTERS = {entry.number: _getter(entry.arguments) for entry in HYPERCALLS}
_ALL_ARGUMENTS = _getter(6)
_NARROW_ARGUMENTS: Callable[[CpuState], tuple[int, ...]] = operator.attrgetter(*_NARROW_REGISTERS)


def _arguments(vcpu: Vcpu, number: int) -> tuple[int, ...]:
    """As many as the hypercall has, or more."""
    if vcpu.narrow_caller:
        return tuple(value & MASK32 for value in _NARROW_ARGUMENTS(vcpu.state))
    return _GETTERS.get(number, _ALL_ARGUMENTS)(vcpu.state)


def _set_result(vcpu: Vcpu, result: int) -> None:
    vcpu.state.rax = result & (MASK32 if vcpu.narrow_caller else MASK64)


def dispatch(vcpu: Vcpu) -> None:
    """A hypercall of the guest kernel: the number in RAX, arguments in RDI, RSI, RDX, R10, R8, R9; the result to RAX. In 32-bit code
    EAX; EBX, ECX, EDX, ESI, EDI, EBP."""
    state = vcpu.state
    number = state.rax & MASK32 if vcpu.narrow_caller else state.rax
    hooks = vcpu.hypervisor.hooks
    vcpu.current_hypercall = number
    if hooks.before_hypercall or hooks.after_hypercall:
        _observed(vcpu, number)
    elif number == xen.HYPERVISOR_iret and not vcpu.is_hvm:
        vcpu.domain.count_hypercall(number)
        traps.hypercall_iret(vcpu)
    else:
        if not vcpu.is_hvm:
            state.rcx, state.r11 = state.rip, state.rflags
        try:
            _set_result(vcpu, call(vcpu, number, _arguments(vcpu, number)))
        except Preempted as continuation:
            _continue_later(vcpu, continuation)
    vcpu.current_hypercall = None


def describe_hypercall(vcpu: Vcpu) -> str:
    """The one that the vCPU makes, with its arguments, for the log."""
    number = vcpu.current_hypercall or 0
    entry = TABLE.get(number)
    name = entry.name if entry else f"hypercall {number}"
    arguments = _arguments(vcpu, number)
    return f"{name}({', '.join(f'{argument:#x}' for argument in arguments)})"


def _continue_later(vcpu: Vcpu, continuation: Preempted) -> None:
    """Execute the hypercall instruction again, with the arguments that are left (hypercall_create_continuation)."""
    state = vcpu.state
    registers = _NARROW_REGISTERS if vcpu.narrow_caller else _ARGUMENT_REGISTERS
    for register, value in zip(registers, continuation.arguments, strict=False):
        setattr(state, register, value)
    state.rip -= vcpu.hypercall_length
    vcpu.hypervisor.let_others_in()


def _observed(vcpu: Vcpu, number: int) -> None:
    """As ``dispatch``, telling the subscribers before and after."""
    state = vcpu.state
    hooks = vcpu.hypervisor.hooks
    entry = TABLE.get(number)
    name = entry.name if entry else f"hypercall {number}"
    arguments = _arguments(vcpu, number)
    event = HypercallEvent(vcpu.domain.domid, vcpu.vcpu_id, number, name, arguments, None)
    hooks.publish(hooks.before_hypercall, event)
    result = 0
    if number == xen.HYPERVISOR_iret and not vcpu.is_hvm:
        vcpu.domain.count_hypercall(number)
        traps.hypercall_iret(vcpu)
    else:
        if not vcpu.is_hvm:
            state.rcx, state.r11 = state.rip, state.rflags
        try:
            result = call(vcpu, number, arguments)
            _set_result(vcpu, result)
        except Preempted as continuation:
            _continue_later(vcpu, continuation)
    if hooks.after_hypercall:
        hooks.publish(hooks.after_hypercall, HypercallEvent(event.domid, event.vcpu, number, name, arguments, result))


def call(vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> int:
    """Run one hypercall. -> its result, a negative errno when refused."""
    domain = vcpu.domain
    entry = TABLE.get(number)
    domain.count_hypercall(number)
    if entry is None or entry.handler is None or vcpu.is_hvm not in entry.guests:
        domain.note_unimplemented(f"hypercall {number}")
        return -errno.ENOSYS
    if entry.wide and vcpu.narrow_caller:
        arguments = (arguments[0] | arguments[1] << 32,)
    for position in entry.narrow:
        if arguments[position] > MASK32:
            arguments = (*arguments[:position], arguments[position] & MASK32, *arguments[position + 1 :])
    try:
        return entry.handler(vcpu, *arguments[: entry.arguments])
    except HypercallError as refusal:
        return -refusal.errno
    except GuestFault:
        return -errno.EFAULT
