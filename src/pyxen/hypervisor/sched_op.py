"""sched_op and set_timer_op: yield, block, poll, shut down, the watchdog, the one-shot timer (sched.h)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi import sched as abi
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.dom0_interface import ShutdownReason
from pyxen.hypervisor.event_channel_delivery import ANY_PORT

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

MAX_POLL_PORTS = 128
WATCHDOGS = 2
#: set_timer_op takes deadlines further away than this, and negative ones, for a wrapped clock of the guest's, and fires soon instead
#: (Xen's do_set_timer_op: "Linux workaround").
FAR_AWAY_NS = 1 << 50
WORKAROUND_NS = 100_000_000
SIGN = 1 << 63


def sched_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """-ENOSYS for a command that is not there."""
    operation = _OPERATIONS.get(command)
    if operation is None:
        vcpu.domain.note_unimplemented(f"sched_op {command}")
        return -errno.ENOSYS
    return operation(vcpu, argument)


def sched_op_compat(vcpu: Vcpu, command: int, argument: int) -> int:
    """The old form: the shutdown reason is the argument itself."""
    if command == abi.SCHEDOP_shutdown:
        return _shut_down(vcpu, argument)
    if command in (abi.SCHEDOP_yield, abi.SCHEDOP_block):
        return _OPERATIONS[command](vcpu, 0)
    return -errno.ENOSYS


def block(vcpu: Vcpu) -> None:
    """Let events in and sleep until there is one."""
    vcpu.events_masked = False
    if not vcpu.octets[vcpu.info]:
        vcpu.block()


def _yield(vcpu: Vcpu, argument: int) -> int:
    """Let others go first."""
    vcpu.hypervisor.dispatcher.give_way(vcpu)
    return 0


def _block(vcpu: Vcpu, argument: int) -> int:
    block(vcpu)
    return 0


def _poll(vcpu: Vcpu, argument: int) -> int:
    """Sleep until the port is pending or the time has come; with any other number of ports than one, until any port of the domain becomes
    pending, as on Xen (evtchn_check_pollers). An upcall that is due ends it at once. Event delivery stays as it is."""
    poll = guest_access.read_structure(vcpu, argument, abi.sched_poll)
    if poll.nr_ports > MAX_POLL_PORTS:
        return -errno.EINVAL
    ports = struct.unpack(f"<{poll.nr_ports}I", guest_access.read(vcpu, poll.ports, 4 * poll.nr_ports)) if poll.nr_ports else ()
    if vcpu.has_deliverable_event:
        return 0
    channels = vcpu.domain.event_channels
    for port in ports:
        channels.status(port)
        if channels.is_pending(port):
            return 0
    if poll.timeout:
        if poll.timeout >= SIGN or poll.timeout <= vcpu.hypervisor.now():
            return 0
        if vcpu.poll_timer is not None:  # of a poll before this in a multicall, which sleeps only at its end
            vcpu.poll_timer.cancel()
        vcpu.poll_timer = vcpu.domain.add_timer(poll.timeout, vcpu.wake)
    vcpu.polled_port = ports[0] if len(ports) == 1 else ANY_PORT
    vcpu.block()
    return 0


def _shutdown(vcpu: Vcpu, argument: int) -> int:
    return _shut_down(vcpu, guest_access.read_structure(vcpu, argument, abi.sched_shutdown).reason)


def _shut_down(vcpu: Vcpu, untrusted_reason: int) -> int:
    if untrusted_reason > abi.SHUTDOWN_MAX:
        return -errno.EINVAL
    domain = vcpu.domain
    reason = domain.shutdown_code if domain.shutdown_code is not None else ShutdownReason(untrusted_reason)
    if reason is ShutdownReason.CRASH:
        domain.crash_cause = domain.crash_cause or "the guest said so (SCHEDOP_shutdown, SHUTDOWN_crash)"
    vcpu.hypervisor.log(f"d{domain.domid} shut down: {reason.name.lower()}")
    domain.shut_down(reason)
    return 0


def _shutdown_code(vcpu: Vcpu, argument: int) -> int:
    """Remember the reason; the shutdown follows."""
    reason = guest_access.read_structure(vcpu, argument, abi.sched_shutdown).reason
    if reason > abi.SHUTDOWN_MAX:
        return -errno.EINVAL
    vcpu.domain.shutdown_code = ShutdownReason(reason)
    return 0


def _remote_shutdown(vcpu: Vcpu, argument: int) -> int:
    vcpu.hypervisor.domain(guest_access.read_structure(vcpu, argument, abi.sched_remote_shutdown).domain_id)
    return -errno.EPERM


def _pin_override(vcpu: Vcpu, argument: int) -> int:
    return -errno.EPERM


def _watchdog(vcpu: Vcpu, argument: int) -> int:
    """A timer that shuts the domain down unless it is set again. id 0: a new one -> its id; timeout 0: stop it."""
    op = guest_access.read_structure(vcpu, argument, abi.sched_watchdog)
    domain = vcpu.domain
    if op.id > WATCHDOGS:
        return -errno.EINVAL
    if not op.id:
        if not op.timeout:
            return -errno.EINVAL
        free = [number for number in range(1, WATCHDOGS + 1) if number not in domain.watchdogs]
        if not free:
            return -errno.ENOSPC
        domain.set_watchdog(free[0], op.timeout)
        return free[0]
    if op.id not in domain.watchdogs:
        return -errno.EINVAL
    domain.set_watchdog(op.id, op.timeout)
    return 0


_OPERATIONS: dict[int, Callable[[Vcpu, int], int]] = {
    abi.SCHEDOP_yield: _yield,
    abi.SCHEDOP_block: _block,
    abi.SCHEDOP_shutdown: _shutdown,
    abi.SCHEDOP_poll: _poll,
    abi.SCHEDOP_remote_shutdown: _remote_shutdown,
    abi.SCHEDOP_shutdown_code: _shutdown_code,
    abi.SCHEDOP_watchdog: _watchdog,
    abi.SCHEDOP_pin_override: _pin_override,
}


def set_timer_op(vcpu: Vcpu, timeout: int) -> int:
    """The one-shot timer in its old form; 0 stops it."""
    now = vcpu.hypervisor.now()
    if timeout >= SIGN or timeout - now >= FAR_AWAY_NS:
        vcpu.one_shot_timer.set(now + WORKAROUND_NS)
    else:
        vcpu.one_shot_timer.set(timeout or None)
    return 0
