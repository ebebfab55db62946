"""Event channels: Xen's interrupts between domains (event_channel.h, Xen's common/event_channel.c).

One ``EventChannels`` per domain: which ports are open, and what they are bound to. How an event gets to the guest is the business of a
``Delivery``: the 2-level or the FIFO ABI, or handlers for the embedded Domain 0.
All methods are called with the hypervisor lock held; refusals are ``HypercallError``.
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyxen.abi.event_channel import (
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from pyxen.abi.xen import NR_VIRQS, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF, VIRQ_XENPMU
from pyxen.hypervisor.dom0_interface import DOMID_SELF, HypercallError
from pyxen.hypervisor.event_channel_delivery import Channel, Delivery, HandlerDelivery
from pyxen.hypervisor.event_channel_ports import FreePorts
from pyxen.hypervisor.event_fifo import FifoDelivery
from pyxen.hypervisor.event_two_level import TwoLevelDelivery
from pyxen.hypervisor.hooks import EventSent
from pyxen.hypervisor.preemption import BUDGET, Slice

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

#: VIRQs that each vCPU binds for itself (virq_is_global answers false).
PER_VCPU_VIRQS = frozenset((VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU))
#: PIRQ numbers that Xen lets a domain without hardware name at all: the 16 of the old interrupt controllers and extra_guest_irqs.
NR_PIRQS = 16 + 32


class EventChannels:
    """The ports of one domain. Port 0 is never open."""

    def __init__(self, domain: Domain, max_port: int) -> None:
        self._domain = domain
        self._max_port = max_port
        self._ports: dict[int, Channel] = {}
        self._free = FreePorts()
        self._native = domain.native_ports
        self._use(TwoLevelDelivery(domain) if domain.domid else HandlerDelivery(domain))

    def _use(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._native.use(delivery.abi)

    # -- ports -----------------------------------------------------------------------------------------------------
    def _take_port(self) -> int:
        """ENOSPC when all are in use; EINVAL when the domain is dying."""
        if self._domain.dying:
            raise HypercallError(errno.EINVAL, f"domain {self._domain.domid} is dying")
        port = self._free.take(min(self._max_port, self._delivery.ports - 1), self._delivery.is_busy)
        if port is None:
            raise HypercallError(errno.ENOSPC, "no free event-channel port")
        return port

    def _open(self, port: int, state: int) -> Channel:
        channel = self._ports[port] = Channel(port)
        channel.state = state
        self._delivery.opened(channel)
        return channel

    def _existing(self, port: int) -> Channel:
        channel = self._ports.get(port)
        if channel is None:
            raise HypercallError(errno.EINVAL, f"port {port} is closed")
        return channel

    def _check_valid(self, port: int) -> None:
        """EINVAL for a number that is no port yet, open or closed."""
        if not 0 <= port < self._free.valid:
            raise HypercallError(errno.EINVAL, f"no port {port}")

    def _domain_named(self, domid: int) -> Domain:
        return self._domain if domid == DOMID_SELF else self._domain.hypervisor.domain(domid)

    def _vcpu(self, vcpu_id: int) -> Vcpu:
        if not 0 <= vcpu_id < len(self._domain.vcpus):
            raise HypercallError(errno.ENOENT, f"no vCPU {vcpu_id}")
        return self._domain.vcpus[vcpu_id]

    def ports(self) -> dict[int, Channel]:
        """Open ports by number."""
        return self._ports

    # -- operations --------------------------------------------------------------------------------------------------
    def alloc_unbound(self, remote_domid: int) -> int:
        """EVTCHNOP_alloc_unbound. -> port. There need not be a domain of that id yet. ENOSPC."""
        channel = self._open(self._take_port(), EVTCHNSTAT_unbound)
        channel.remote_domid = self._domain.domid if remote_domid == DOMID_SELF else remote_domid
        return channel.port

    def bind_interdomain(self, remote_domid: int, remote_port: int, handler: Callable[[], None] | None = None) -> int:
        """EVTCHNOP_bind_interdomain. -> local port, which is pending at once, as on Xen. EINVAL, ESRCH, ENOSPC."""
        remote_domain = self._domain_named(remote_domid)
        remote = remote_domain.event_channels
        port = self._take_port()
        theirs = remote._ports.get(remote_port)
        if theirs is None or theirs.state != EVTCHNSTAT_unbound or theirs.remote_domid != self._domain.domid:
            self._free.give_back(port)
            raise HypercallError(
                errno.EINVAL, f"port {remote_port} of domain {remote_domain.domid} is not open to domain {self._domain.domid}"
            )
        channel = self._open(port, EVTCHNSTAT_interdomain)
        channel.handler = handler
        channel.remote, channel.remote_port, channel.remote_domid = remote, remote_port, remote_domain.domid
        theirs.state, theirs.remote, theirs.remote_port = EVTCHNSTAT_interdomain, self, port
        self._make_pending(channel, remote_domain.domid)
        return port

    def bind_virq(self, virq: int, vcpu_id: int) -> int:
        """EVTCHNOP_bind_virq. -> port. EINVAL, ENOENT, EEXIST."""
        if not 0 <= virq < NR_VIRQS or (virq not in PER_VCPU_VIRQS and vcpu_id):
            raise HypercallError(errno.EINVAL, f"VIRQ {virq} on vCPU {vcpu_id}")
        vcpu = self._vcpu(vcpu_id)
        if virq in vcpu.virqs:
            raise HypercallError(errno.EEXIST, f"VIRQ {virq} is bound already")
        channel = self._open(self._take_port(), EVTCHNSTAT_virq)
        channel.virq, channel.vcpu_id = virq, vcpu_id
        vcpu.virqs[virq] = channel.port
        if virq == VIRQ_TIMER:
            vcpu.timer_port = channel.port
        return channel.port

    def bind_ipi(self, vcpu_id: int) -> int:
        """EVTCHNOP_bind_ipi. -> port. ENOENT."""
        self._vcpu(vcpu_id)
        channel = self._open(self._take_port(), EVTCHNSTAT_ipi)
        channel.vcpu_id = vcpu_id
        self._native.ipis[channel.port] = 1 + vcpu_id
        return channel.port

    def bind_pirq(self, pirq: int) -> int:
        """EVTCHNOP_bind_pirq, for a domain without hardware. EINVAL for a number that is no PIRQ, EPERM for all others."""
        if pirq >= NR_PIRQS:
            raise HypercallError(errno.EINVAL, f"no PIRQ {pirq}")
        raise HypercallError(errno.EPERM, f"PIRQ {pirq} is not domain {self._domain.domid}'s")

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
            owner = self._virq_owner(channel)
            del owner.virqs[channel.virq]
            if channel.virq == VIRQ_TIMER:
                owner.timer_port = 0
        self._native.ipis[port] = 0
        self._detach_peer(channel)
        del self._ports[port]
        self._delivery.clear_pending(channel)
        self._free.give_back(port)

    def _virq_owner(self, channel: Channel) -> Vcpu:
        """A global VIRQ stays vCPU 0's, whichever vCPU it notifies."""
        return self._domain.vcpus[channel.vcpu_id if channel.virq in PER_VCPU_VIRQS else 0]

    def _detach_peer(self, channel: Channel) -> None:
        if channel.state == EVTCHNSTAT_interdomain and channel.remote is not None:
            theirs = channel.remote._ports[channel.remote_port]
            theirs.state, theirs.remote, theirs.remote_domid = EVTCHNSTAT_unbound, None, self._domain.domid

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
        """EVTCHNOP_status: the channel, a closed one for a closed port. EINVAL for a number that is no port yet."""
        self._check_valid(port)
        return self._ports.get(port) or Channel(port)

    def unmask(self, port: int) -> None:
        """EVTCHNOP_unmask: clear the mask; an event that was pending is delivered. Nothing happens to a closed port. EINVAL."""
        self._check_valid(port)
        channel = self._ports.get(port)
        if channel is not None:
            self._delivery.unmask(channel)

    def reset(self) -> bool:
        """EVTCHNOP_reset: close everything and go back to the 2-level ABI. -> False: there is more to do, call again."""
        time_slice = Slice()
        for port in list(itertools.islice(self._ports, BUDGET)):
            self.close(port)
            if time_slice.over:
                break
        if self._ports:
            return False
        self._use_two_level()
        return True

    def _use_two_level(self) -> None:
        if isinstance(self._delivery, FifoDelivery):
            self._delivery.release()
            self._use(TwoLevelDelivery(self._domain))
            self._free.release_busy()

    def destroy(self, give_way: Callable[[], None]) -> None:
        """The domain dies, and can't open ports any more: all are closed. Other domains' ends become unbound, and events sent there are
        dropped. ``give_way`` is called now and then."""
        while self._ports:
            for channel in list(itertools.islice(self._ports.values(), BUDGET)):
                if channel.remote is not self:
                    self._detach_peer(channel)
                del self._ports[channel.port]
            give_way()
        for vcpu in self._domain.vcpus:
            vcpu.virqs.clear()
            vcpu.timer_port = 0
        self._native.ipis[:] = 0
        self._use_two_level()

    # -- the FIFO ABI ------------------------------------------------------------------------------------------------
    def init_control(self, vcpu_id: int, mfn: int, offset: int) -> None:
        """EVTCHNOP_init_control: the first one changes the domain to the FIFO ABI, and pending events are carried over. ENOENT, EINVAL."""
        vcpu = self._vcpu(vcpu_id)
        before = self._delivery
        if isinstance(before, FifoDelivery):
            before.set_control_block(vcpu, mfn, offset)
            return
        fifo = FifoDelivery(self._domain)
        fifo.set_control_block(vcpu, mfn, offset)
        for channel in self._ports.values():
            if before.is_pending(channel.port):
                before.clear_pending(channel)
                fifo.take_over(channel)
        self._use(fifo)

    def expand_array(self, mfn: int) -> None:
        """EVTCHNOP_expand_array. EOPNOTSUPP with the 2-level ABI, ENOSPC, EINVAL."""
        if not isinstance(self._delivery, FifoDelivery):
            raise HypercallError(errno.EOPNOTSUPP, "there is no event array in the 2-level ABI")
        self._delivery.expand_array(mfn)

    def set_priority(self, port: int, priority: int) -> None:
        """EVTCHNOP_set_priority. ENOSYS with the 2-level ABI, EINVAL, EACCES for a closed port."""
        self._check_valid(port)
        if port not in self._ports and isinstance(self._delivery, FifoDelivery):
            raise HypercallError(errno.EACCES, f"port {port} is closed")
        self._delivery.set_priority(port, priority)

    def held_frames(self) -> Iterator[int]:
        """MFNs on which the FIFO ABI holds a general and a writable reference, as often as it does."""
        return self._delivery.held_frames() if isinstance(self._delivery, FifoDelivery) else iter(())

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
        self._delivery.set_pending(channel)

    def is_pending(self, port: int) -> bool:
        """Whether the port is open and pending."""
        return port in self._ports and self._delivery.is_pending(port)

    def describe(self, port: int) -> str:
        """State of an open port for the log, as Xen's debug key e writes it."""
        channel, delivery = self._ports[port], self._delivery
        flags = f"{delivery.is_pending(port):d}/{delivery.is_masked(port):d}/{delivery.describe(port)}"
        peer = {
            EVTCHNSTAT_unbound: f" d={channel.remote_domid}",
            EVTCHNSTAT_interdomain: f" d={channel.remote_domid} p={channel.remote_port}",
            EVTCHNSTAT_virq: f" v={channel.virq}",
        }.get(channel.state, "")
        return f"[{flags}]: s={channel.state} n={channel.vcpu_id}{peer}"
