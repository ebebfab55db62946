"""The 2-level ABI of event channels: pending and mask bits of ports in shared_info, and a selector per vCPU (Xen's common/event_2l.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.abi.xen import shared_info
from pyxen.hypervisor.event_channel_delivery import Channel, mark_events_pending, refuse_priority, wake_pollers
from pyxen.hypervisor.gate import EventAbi

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain

PENDING_OFFSET: int = shared_info.evtchn_pending.offset


class TwoLevelDelivery:
    """See ``Delivery``. Needs the domain's shared info page. Ports that a 32-bit guest has no bits for stay silent."""

    abi = EventAbi.TWO_LEVEL

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._engine = domain.hypervisor.engine
        self._words = domain.hypervisor.memory.words

    @property
    def ports(self) -> int:
        """See Delivery."""
        return self._domain.shared_layout.ports

    def _bit(self, offset: int, port: int) -> tuple[int, int]:
        return self._domain.shared_info + offset + (port >> 6 << 3), 1 << (port & 63)

    def _test(self, offset: int, port: int) -> bool:
        address, bit = self._bit(offset, port)
        return bool(self._words[address >> 3] & bit)

    def opened(self, channel: Channel) -> None:
        """See Delivery."""

    def set_pending(self, channel: Channel) -> None:
        """See Delivery."""
        port = channel.port
        if port >= self.ports:
            return
        address, bit = self._bit(PENDING_OFFSET, port)
        if self._engine.set_bits(address, bit) & bit:
            return
        if not self.is_masked(port):
            self._select(channel)
        wake_pollers(self._domain, port)

    def _select(self, channel: Channel) -> None:
        """Have the port's vCPU look at the port's word."""
        vcpu, layout = self._domain.vcpus[channel.vcpu_id], self._domain.shared_layout
        word = layout.selector_bits(1 << (channel.port >> layout.word_shift))
        if not self._engine.set_bits(vcpu.info + layout.selector, word) & word:
            mark_events_pending(vcpu)

    def clear_pending(self, channel: Channel) -> None:
        """See Delivery."""
        self._engine.clear_bits(*self._bit(PENDING_OFFSET, channel.port))

    def unmask(self, channel: Channel) -> None:
        """See Delivery."""
        if channel.port >= self.ports:
            return
        address, bit = self._bit(self._domain.shared_layout.mask, channel.port)
        if self._engine.clear_bits(address, bit) & bit and self.is_pending(channel.port):
            self._select(channel)

    def is_pending(self, port: int) -> bool:
        """See Delivery."""
        return self._test(PENDING_OFFSET, port)

    def is_masked(self, port: int) -> bool:
        """See Delivery."""
        return self._test(self._domain.shared_layout.mask, port)

    def is_busy(self, port: int) -> bool:
        """See Delivery. There are no queues."""
        return False

    def set_priority(self, port: int, priority: int) -> None:
        """See Delivery."""
        refuse_priority()

    def describe(self, port: int) -> str:
        """See Delivery."""
        return "2-level"

    def release(self) -> None:
        """See Delivery. The shared info page stays."""
