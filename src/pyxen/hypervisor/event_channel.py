"""Event channels: Xen's interrupts between domains, the 2-level ABI (event_channel.h, Xen's common/event_channel.c).

One ``EventChannels`` per domain. A port of Domain 0's embedded control domain has a Python handler instead of bits in a shared page.
All methods are called with the hypervisor lock held; refusals are ``HypercallError``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.abi.event_channel import (
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from pyxen.abi.xen import NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU, shared_info
from pyxen.hypervisor.dom0_interface import DOMID_SELF, HypercallError
from pyxen.hypervisor.hooks import EventSent

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

MAX_PORTS_2LEVEL = 4096
PENDING_OFFSET: int = shared_info.evtchn_pending.offset
MASK_OFFSET: int = shared_info.evtchn_mask.offset
PENDING_SELECTOR_OFFSET = 8  # vcpu_info.evtchn_pending_sel
#: VIRQs that each vCPU binds for itself (virq_is_global answers false).
PER_VCPU_VIRQS = frozenset((VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU))


class Channel:
    """One port. ``remote_port`` counts when the state is interdomain; ``virq`` when it is virq."""

    __slots__ = ("handler", "port", "remote", "remote_domid", "remote_port", "state", "vcpu_id", "virq")

    def __init__(self, port: int) -> None:
        self.port = port
        self.state: int = EVTCHNSTAT_closed
        self.vcpu_id = 0
        self.virq = 0
        self.remote_domid = 0
        self.remote_port = 0
        self.remote: EventChannels | None = None
        self.handler: Callable[[], None] | None = None


class EventChannels:
    """The ports of one domain. Port 0 is never valid."""

    def __init__(self, domain: Domain, max_port: int) -> None:
        self._domain = domain
        self._max_port = min(max_port, MAX_PORTS_2LEVEL - 1)
        self._ports: dict[int, Channel] = {}
        self._next = 1

    # -- ports -----------------------------------------------------------------------------------------------------
    def _new(self) -> Channel:
        """The lowest closed port. ENOSPC when all are in use."""
        port = self._next
        while port in self._ports:
            port += 1
        if port > self._max_port:
            raise HypercallError(errno.ENOSPC, "no free event-channel port")
        self._next = port + 1
        channel = self._ports[port] = Channel(port)
        return channel

    def _existing(self, port: int) -> Channel:
        channel = self._ports.get(port)
        if channel is None:
            raise HypercallError(errno.EINVAL, f"port {port} is closed")
        return channel

    def _domain_named(self, domid: int) -> Domain:
        return self._domain if domid == DOMID_SELF else self._domain.hypervisor.domain(domid)

    def ports(self) -> dict[int, Channel]:
        """Open ports by number."""
        return self._ports

    # -- operations --------------------------------------------------------------------------------------------------
    def alloc_unbound(self, remote_domid: int) -> int:
        """EVTCHNOP_alloc_unbound, for a domain that need not exist yet. -> port. ENOSPC."""
        channel = self._new()
        channel.state = EVTCHNSTAT_unbound
        channel.remote_domid = self._domain.domid if remote_domid == DOMID_SELF else remote_domid
        return channel.port

    def bind_interdomain(self, remote_domid: int, remote_port: int, handler: Callable[[], None] | None = None) -> int:
        """EVTCHNOP_bind_interdomain. -> local port, which is pending at once, as on Xen. EINVAL, ESRCH, ENOSPC."""
        remote_domain = self._domain_named(remote_domid)
        remote = remote_domain.event_channels
        theirs = remote._ports.get(remote_port)
        if theirs is None or theirs.state != EVTCHNSTAT_unbound or theirs.remote_domid != self._domain.domid:
            raise HypercallError(
                errno.EINVAL, f"port {remote_port} of domain {remote_domain.domid} is not open to domain {self._domain.domid}"
            )
        channel = self._new()
        channel.state = theirs.state = EVTCHNSTAT_interdomain
        channel.handler = handler
        channel.remote, channel.remote_port, channel.remote_domid = remote, remote_port, remote_domain.domid
        theirs.remote, theirs.remote_port = self, channel.port
        self._make_pending(channel, remote_domain.domid)
        return channel.port

    def bind_virq(self, virq: int, vcpu_id: int) -> int:
        """EVTCHNOP_bind_virq. -> port. EINVAL, ENOENT, EEXIST."""
        if not 0 <= virq < NR_VIRQS or (virq not in PER_VCPU_VIRQS and vcpu_id):
            raise HypercallError(errno.EINVAL, f"VIRQ {virq} on vCPU {vcpu_id}")
        vcpu = self._vcpu(vcpu_id)
        if virq in vcpu.virqs:
            raise HypercallError(errno.EEXIST, f"VIRQ {virq} is bound already")
        channel = self._new()
        channel.state, channel.virq, channel.vcpu_id = EVTCHNSTAT_virq, virq, vcpu_id
        vcpu.virqs[virq] = channel.port
        return channel.port

    def bind_ipi(self, vcpu_id: int) -> int:
        """EVTCHNOP_bind_ipi. -> port. ENOENT."""
        self._vcpu(vcpu_id)
        channel = self._new()
        channel.state, channel.vcpu_id = EVTCHNSTAT_ipi, vcpu_id
        return channel.port

    def bind_vcpu(self, port: int, vcpu_id: int) -> None:
        """EVTCHNOP_bind_vcpu. EINVAL for per-vCPU ports, ENOENT."""
        self._vcpu(vcpu_id)
        channel = self._existing(port)
        if channel.state == EVTCHNSTAT_ipi or (channel.state == EVTCHNSTAT_virq and channel.virq in PER_VCPU_VIRQS):
            raise HypercallError(errno.EINVAL, f"port {port} belongs to its vCPU")
        channel.vcpu_id = vcpu_id

    def close(self, port: int) -> None:
        """EVTCHNOP_close. The other end of an interdomain channel becomes unbound. EINVAL."""
        channel = self._existing(port)
        if channel.state == EVTCHNSTAT_virq:
            # Not only on its vCPU: a global VIRQ stays registered where it was bound, wherever EVTCHNOP_bind_vcpu sends it.
            for vcpu in self._domain.vcpus:
                if vcpu.virqs.get(channel.virq) == port:
                    del vcpu.virqs[channel.virq]
        elif channel.state == EVTCHNSTAT_interdomain and channel.remote is not None:
            theirs = channel.remote._ports[channel.remote_port]
            theirs.state, theirs.remote, theirs.remote_domid = EVTCHNSTAT_unbound, None, self._domain.domid
        del self._ports[port]
        self._next = min(self._next, port)
        if self._domain.shared_info:
            # The mask stays as the guest has set it, for the port's next use.
            self._domain.clear_shared_bit(PENDING_OFFSET, port)

    def send(self, port: int) -> None:
        """EVTCHNOP_send. EINVAL for a port that can't send."""
        channel = self._existing(port)
        if channel.state == EVTCHNSTAT_interdomain and channel.remote is not None:
            channel.remote._make_pending(channel.remote._ports[channel.remote_port], self._domain.domid)
        elif channel.state == EVTCHNSTAT_ipi:
            self._make_pending(channel, self._domain.domid)
        elif channel.state != EVTCHNSTAT_unbound:
            raise HypercallError(errno.EINVAL, f"port {port} is no port to send on")

    def status(self, port: int) -> Channel:
        """EVTCHNOP_status: the channel, a closed one for a closed port. EINVAL beyond the ABI's range."""
        if not 0 <= port <= self._max_port:
            raise HypercallError(errno.EINVAL, f"no port {port}")
        return self._ports.get(port) or Channel(port)

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask: clear the mask; an event that was pending is delivered. EINVAL."""
        channel = self._existing(port)
        if self._domain.clear_shared_bit(MASK_OFFSET, port) and self._domain.test_shared_bit(PENDING_OFFSET, port):
            self._notify(self._domain.vcpus[channel.vcpu_id], port)

    def reset(self) -> None:
        """EVTCHNOP_reset: close everything."""
        for port in list(self._ports):
            self.close(port)

    # -- delivery ----------------------------------------------------------------------------------------------------
    def send_virq(self, vcpu: Vcpu, virq: int) -> None:
        """Make a VIRQ pending on ``vcpu`` if the guest has bound it."""
        port = vcpu.virqs.get(virq)
        if port is not None:
            self._make_pending(self._ports[port], None)

    def _make_pending(self, channel: Channel, source: int | None) -> None:
        hooks = self._domain.hypervisor.hooks
        if hooks.event_sent:
            hooks.publish(hooks.event_sent, EventSent(self._domain.domid, channel.port, source))
        if channel.handler is not None:
            self._domain.hypervisor.call_domain0(channel.handler)
            return
        if not self._domain.shared_info:
            return
        if self._domain.set_shared_bit(PENDING_OFFSET, channel.port):
            return
        vcpu = self._domain.vcpus[channel.vcpu_id]
        if not self._domain.test_shared_bit(MASK_OFFSET, channel.port):
            self._notify(vcpu, channel.port)
        self._wake_pollers(channel.port)

    def _notify(self, vcpu: Vcpu, port: int) -> None:
        """Set the selector bit and the upcall byte, and get the vCPU to look (vcpu_mark_events_pending)."""
        self._domain.hypervisor.engine.set_bits(vcpu.info + PENDING_SELECTOR_OFFSET, 1 << (port >> 6))
        vcpu.octets[vcpu.info] = 1
        if vcpu.octets[vcpu.info + 1] and not vcpu.blocked:
            return
        vcpu.wake()

    def _wake_pollers(self, port: int) -> None:
        for vcpu in self._domain.vcpus:
            if port in vcpu.polled_ports:
                vcpu.wake()

    def is_pending(self, port: int) -> bool:
        """Whether the port's pending bit is set."""
        return self._domain.test_shared_bit(PENDING_OFFSET, port)

    def _vcpu(self, vcpu_id: int) -> Vcpu:
        if not 0 <= vcpu_id < len(self._domain.vcpus):
            raise HypercallError(errno.ENOENT, f"no vCPU {vcpu_id}")
        return self._domain.vcpus[vcpu_id]
