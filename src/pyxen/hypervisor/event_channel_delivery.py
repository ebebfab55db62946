"""How events get from a port to whom they are for: what all ABIs have in common, and the embedded Domain 0's way, handlers.

``EventChannels`` knows which ports are open and what they are bound to; a ``Delivery`` knows the memory in which the guest sees them
pending and masked. All methods are called with the hypervisor lock held; the guest changes the same memory meanwhile.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pyxen.abi.event_channel import EVTCHN_FIFO_NR_CHANNELS, EVTCHNSTAT_closed
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.gate import EventAbi

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.event_channel import EventChannels
    from pyxen.hypervisor.vcpu import Vcpu


#: What a vCPU polls that named no port or several (Xen's poll_evtchn -1).
ANY_PORT = -1


class Channel:
    """One port. ``remote`` and ``remote_port`` count when the state is interdomain; ``virq`` when it is virq."""

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


class Delivery(Protocol):
    """One ABI for the events of one domain (Xen's evtchn_port_ops)."""

    abi: EventAbi

    @property
    def ports(self) -> int:
        """How many it can have, port 0 included."""

    def opened(self, channel: Channel) -> None:
        """A port was allocated: default priority."""

    def set_pending(self, channel: Channel) -> None:
        """An event: the port becomes pending, and the vCPU that it notifies looks, unless the port is masked."""

    def clear_pending(self, channel: Channel) -> None:
        """The port is closed: no event of it is left for whoever gets it next."""

    def unmask(self, channel: Channel) -> None:
        """Clear the mask; an event that was pending is delivered."""

    def is_pending(self, port: int) -> bool:
        """Whether the guest has an event of the port to look at."""

    def is_masked(self, port: int) -> bool:
        """Whether the guest does not want to be told."""

    def is_busy(self, port: int) -> bool:
        """Whether the guest still has the closed port on a queue, so that it can't be given anew."""

    def set_priority(self, port: int, priority: int) -> None:
        """EVTCHNOP_set_priority. EINVAL, ENOSYS when the ABI has none."""

    def describe(self, port: int) -> str:
        """What only this ABI knows of the port, for the log."""

    def release(self) -> None:
        """Give up the guest's memory."""


def refuse_priority() -> None:
    """ENOSYS: the answer of an ABI without priorities."""
    raise HypercallError(errno.ENOSYS, "priorities need the FIFO ABI")


class HandlerDelivery:
    """The embedded Domain 0: an event is a call of the port's handler. Nothing is pending or masked; whoever needs time
    makes one turn of work out of any number of calls."""

    abi = EventAbi.HANDLERS
    ports = EVTCHN_FIFO_NR_CHANNELS

    def __init__(self, domain: Domain) -> None:
        self._hypervisor = domain.hypervisor

    def opened(self, channel: Channel) -> None:
        """See Delivery."""

    def set_pending(self, channel: Channel) -> None:
        """See Delivery. A handler that fails is no fault of the domain that sent the event."""
        if channel.handler is None:
            return
        try:
            channel.handler()
        except Exception as error:
            self._hypervisor.guest_log(channel.remote_domid, f"internal error in the handler of d0's port {channel.port}: {error!r}")

    def clear_pending(self, channel: Channel) -> None:
        """See Delivery."""

    def unmask(self, channel: Channel) -> None:
        """See Delivery."""

    def is_pending(self, port: int) -> bool:
        """See Delivery."""
        return False

    def is_masked(self, port: int) -> bool:
        """See Delivery."""
        return False

    def is_busy(self, port: int) -> bool:
        """See Delivery."""
        return False

    def set_priority(self, port: int, priority: int) -> None:
        """See Delivery."""
        refuse_priority()

    def describe(self, port: int) -> str:
        """See Delivery."""
        return "handler"

    def release(self) -> None:
        """See Delivery."""


def mark_events_pending(vcpu: Vcpu) -> None:
    """Set evtchn_upcall_pending, and get the vCPU to look (vcpu_mark_events_pending). Also one that masks upcalls at this
    moment: it may have looked for them and be about to let them in."""
    if not vcpu.hypervisor.engine.set_bits(vcpu.info, 1) & 0xFF:
        vcpu.event_upcall()


def wake_pollers(domain: Domain, port: int) -> None:
    """End the SCHEDOP_poll of every vCPU that waits for this port, or for any."""
    for vcpu in domain.vcpus:
        if vcpu.polled_port is not None and vcpu.polled_port in (port, ANY_PORT):
            vcpu.wake()
