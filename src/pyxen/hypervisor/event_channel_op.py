"""event_channel_op: the guest's side of ``event_channel`` (event_channel.h). Arguments in, one method, results out."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi import event_channel as abi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.preemption import Preempted

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu


def event_channel_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """-ENOSYS for a command that is not there; else what the operation answers."""
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"event_channel_op {command}")
        return -errno.ENOSYS
    operation(vcpu, argument)
    return 0


def _check_self(vcpu: Vcpu, domid: int) -> None:
    vcpu.hypervisor.check_own_domid(vcpu.domain, domid)


def _alloc_unbound(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_alloc_unbound)
    _check_self(vcpu, op.dom)
    op.port = vcpu.domain.event_channels.alloc_unbound(op.remote_dom)
    guest_access.write_structure(vcpu, argument, op)


def _bind_interdomain(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_bind_interdomain)
    op.local_port = vcpu.domain.event_channels.bind_interdomain(op.remote_dom, op.remote_port)
    guest_access.write_structure(vcpu, argument, op)


def _bind_virq(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_bind_virq)
    op.port = vcpu.domain.event_channels.bind_virq(op.virq, op.vcpu)
    guest_access.write_structure(vcpu, argument, op)


def _bind_ipi(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_bind_ipi)
    op.port = vcpu.domain.event_channels.bind_ipi(op.vcpu)
    guest_access.write_structure(vcpu, argument, op)


def _bind_pirq(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_bind_pirq)
    op.port = vcpu.domain.event_channels.bind_pirq(op.pirq)
    guest_access.write_structure(vcpu, argument, op)


def _bind_vcpu(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_bind_vcpu)
    vcpu.domain.event_channels.bind_vcpu(op.port, op.vcpu)


def _close(vcpu: Vcpu, argument: int) -> None:
    vcpu.domain.event_channels.close(guest_access.read_structure(vcpu, argument, abi.evtchn_close).port)


def _send(vcpu: Vcpu, argument: int) -> None:
    vcpu.domain.event_channels.send(guest_access.read_structure(vcpu, argument, abi.evtchn_send).port)


def _unmask(vcpu: Vcpu, argument: int) -> None:
    vcpu.domain.event_channels.unmask(guest_access.read_structure(vcpu, argument, abi.evtchn_unmask).port)


def _reset(vcpu: Vcpu, argument: int) -> None:
    _check_self(vcpu, guest_access.read_structure(vcpu, argument, abi.evtchn_reset).dom)
    if not vcpu.domain.event_channels.reset():
        raise Preempted(abi.EVTCHNOP_reset, argument)


def _init_control(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_init_control)
    vcpu.domain.event_channels.init_control(op.vcpu, op.control_gfn, op.offset)
    op.link_bits = abi.EVTCHN_FIFO_LINK_BITS
    guest_access.write_structure(vcpu, argument, op)


def _expand_array(vcpu: Vcpu, argument: int) -> None:
    vcpu.domain.event_channels.expand_array(guest_access.read_structure(vcpu, argument, abi.evtchn_expand_array).array_gfn)


def _set_priority(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_set_priority)
    vcpu.domain.event_channels.set_priority(op.port, op.priority)


def _status(vcpu: Vcpu, argument: int) -> None:
    op = guest_access.read_structure(vcpu, argument, abi.evtchn_status)
    _check_self(vcpu, op.dom)
    channel = vcpu.domain.event_channels.status(op.port)
    op.status, op.vcpu = channel.state, channel.vcpu_id
    if channel.state == abi.EVTCHNSTAT_unbound:
        op.u.unbound.dom = channel.remote_domid
    elif channel.state == abi.EVTCHNSTAT_interdomain:
        op.u.interdomain.dom, op.u.interdomain.port = channel.remote_domid, channel.remote_port
    elif channel.state == abi.EVTCHNSTAT_virq:
        op.u.virq = channel.virq
    guest_access.write_structure(vcpu, argument, op)


_OPERATIONS: dict[int, Callable[[Vcpu, int], None]] = {
    abi.EVTCHNOP_alloc_unbound: _alloc_unbound,
    abi.EVTCHNOP_bind_interdomain: _bind_interdomain,
    abi.EVTCHNOP_bind_virq: _bind_virq,
    abi.EVTCHNOP_bind_ipi: _bind_ipi,
    abi.EVTCHNOP_bind_pirq: _bind_pirq,
    abi.EVTCHNOP_bind_vcpu: _bind_vcpu,
    abi.EVTCHNOP_close: _close,
    abi.EVTCHNOP_send: _send,
    abi.EVTCHNOP_status: _status,
    abi.EVTCHNOP_unmask: _unmask,
    abi.EVTCHNOP_reset: _reset,
    abi.EVTCHNOP_init_control: _init_control,
    abi.EVTCHNOP_expand_array: _expand_array,
    abi.EVTCHNOP_set_priority: _set_priority,
}
