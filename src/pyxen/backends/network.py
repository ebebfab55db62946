"""The network backend: virtual network interfaces ("vif"), as netback is to Linux's Domain 0 (public header io/netif.h)."""

from __future__ import annotations

import asyncio
import errno
import functools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pyxen.abi.io.netif import XEN_NETIF_EXTRA_TYPE_MCAST_ADD
from pyxen.backends.device import BackendDevice, DeviceAddress, DeviceError, Surroundings
from pyxen.backends.network_attachment import Attachment
from pyxen.backends.network_choice import choose_attachment
from pyxen.backends.network_frame import Frame
from pyxen.backends.network_queue import FrontendFeatures, NetworkQueue, QueuePlace
from pyxen.backends.network_rate import RateLimit
from pyxen.backends.network_switch import Switches
from pyxen.backends.xenbus import BackendBus
from pyxen.hypervisor.dom0_interface import HypercallError

MAX_QUEUES = 4
#: Multicast addresses that one vif may ask for (netback's XEN_NETBK_MCAST_MAX).
_MAX_MULTICAST = 64
_MAX_NUMBER = 0xFFFFFFFF
_BROADCAST = b"\xff" * 6

#: Called with each frame of a vif, and whether it goes to the guest.
Observer = Callable[[Frame, bool], None]


@dataclass(slots=True)
class VifStatistics:
    """As the host sees the vif: received from the guest, sent to it (/sys/class/net/vif1.0/statistics)."""

    rx_bytes: int = 0
    rx_packets: int = 0
    rx_errors: int = 0
    tx_bytes: int = 0
    tx_packets: int = 0
    tx_dropped: int = 0


@dataclass
class VifLegacy:
    """What stays when a backend is restarted under its frontend: a NAT keeps its connections."""

    attachment: Attachment
    statistics: VifStatistics
    observers: list[Observer]
    multicast: set[bytes] | None


class NetworkDevice(BackendDevice):
    """One interface of one guest. A ``VifPort`` to its attachment, a ``QueueOwner`` to its queues."""

    def __init__(self, surroundings: Surroundings, address: DeviceAddress, switches: Switches) -> None:
        self.statistics = VifStatistics()
        self.observers: list[Observer] = []
        self.name = f"vif{address.domid}.{address.devid}"
        self.mac = bytes(6)
        self.mtu = 0
        self._switches = switches
        self._attachment: Attachment | None = None
        self._queues: list[NetworkQueue] = []
        self._rate = RateLimit(None)
        self._rate_timer: asyncio.TimerHandle | None = None
        self._multicast: set[bytes] | None = None  # what the frontend asked for; None: all
        self._is_ending = self._hands_over = False  # the device is removed; its backend is restarted
        super().__init__(surroundings, address)

    async def open(self) -> None:
        """Attach to the network that the toolstack named."""
        self.mac = bytes.fromhex(self.backend_value("mac", "00:00:00:00:00:00").replace(":", ""))
        self.mtu = int(self.backend_value("mtu", "0"))
        self.name = self.backend_value("vifname") or self.name
        self._rate = RateLimit(self.backend_value("rate") or None)
        if isinstance(self.inheritance, VifLegacy):
            legacy = self.inheritance
            self.statistics, self.observers, self._attachment = legacy.statistics, legacy.observers, legacy.attachment
            self._attachment.move(self)
        else:
            self._attachment = choose_attachment(self, self.backend_value, self.helpers, self._switches)
            await self._attachment.open()
        self.publish(
            feature_sg=1,
            feature_gso_tcpv4=1,
            feature_gso_tcpv6=1,
            feature_ipv6_csum_offload=1,
            feature_rx_copy=1,
            feature_rx_flip=0,
            feature_multicast_control=1,
            feature_dynamic_multicast_control=1,
            feature_split_event_channels=1,
            multi_queue_max_queues=MAX_QUEUES,
        )

    async def connect(self) -> None:
        """Map the frontend's rings."""
        if not self.frontend_number("request-rx-copy", 0, 1, 0):
            raise DeviceError(errno.EOPNOTSUPP, "the frontend does not ask for rx copy")
        self._multicast = set() if self.frontend_number("request-multicast-control", 0, 1, 0) else None
        if isinstance(self.inheritance, VifLegacy) and self._multicast is not None:
            self._multicast |= self.inheritance.multicast or set()
        self.inheritance = None
        features = self._frontend_features()
        count = self.frontend_number("multi-queue-num-queues", 1, MAX_QUEUES, 1)
        for folder in [""] if count == 1 else [f"queue-{index}/" for index in range(count)]:
            place = self._queue_place(folder)
            try:
                queue = NetworkQueue(self.dom0, self.address.domid, place, features, self)
            except HypercallError as error:
                raise DeviceError(
                    error.errno, f"mapping shared-frames {place.untrusted_tx_reference}/{place.untrusted_rx_reference}: {error.reason}"
                ) from None
            self._queues.append(queue)
        self.room_again()

    async def disconnect(self) -> None:
        """Unmap everything."""
        if self._rate_timer is not None:
            self._rate_timer.cancel()
            self._rate_timer = None
        while self._queues:
            self._queues.pop().close()

    async def release(self) -> None:
        """Leave the network, unless another backend of the same vif takes it over (``legacy``)."""
        legacy = self.legacy()
        if self._hands_over or not isinstance(legacy, VifLegacy):
            return
        self._attachment = self.inheritance = None
        await legacy.attachment.close()

    async def abandon(self) -> object | None:
        """See ``BackendDevice``."""
        self._hands_over = not self._is_ending
        return await super().abandon()

    async def close(self) -> None:
        """See ``BackendDevice``."""
        self._is_ending = True
        await super().close()

    def legacy(self) -> object | None:
        """See ``BackendDevice``."""
        if self._attachment is None:
            return self.inheritance
        return VifLegacy(self._attachment, self.statistics, self.observers, self._multicast)

    def _frontend_features(self) -> FrontendFeatures:
        def has(name: str) -> bool:
            return bool(self.frontend_number(name, 0, 1, 0))

        gso = {version for version in (4, 6) if has(f"feature-gso-tcpv{version}")}
        checksum = {4} if not has("feature-no-csum-offload") else set()
        checksum |= {6} if has("feature-ipv6-csum-offload") else set()
        return FrontendFeatures(has("feature-sg"), frozenset(gso), frozenset(checksum))

    def _queue_place(self, folder: str) -> QueuePlace:
        def number(name: str, default: int | None = None) -> int:
            return self.frontend_number(folder + name, 0, _MAX_NUMBER, default)

        common = number("event-channel", -1)
        if common >= 0:
            return QueuePlace(number("tx-ring-ref"), number("rx-ring-ref"), common, common)
        return QueuePlace(number("tx-ring-ref"), number("rx-ring-ref"), number("event-channel-tx"), number("event-channel-rx"))

    # -- for its queues -----------------------------------------------------------------------------------------------------
    def take_frames(self, frames: Sequence[Frame]) -> None:
        """From the guest."""
        self.statistics.rx_packets += len(frames)
        self.statistics.rx_bytes += sum(len(frame.data) for frame in frames)
        self._observe(frames, to_guest=False)
        if self._attachment is not None:
            self._attachment.send(frames)

    def may_send(self) -> bool:
        return self._attachment is None or self._attachment.may_send()

    def spend(self, size: int) -> bool:
        """See ``QueueOwner``."""
        delay = self._rate.spend(size, self.loop.time())
        if delay and self._rate_timer is None:
            self._rate_timer = self.loop.call_later(delay, self._credit)
        return not delay

    def _credit(self) -> None:
        self._rate_timer = None
        self.resume()

    def change_multicast(self, kind: int, address: bytes) -> bool:
        """See ``QueueOwner``."""
        if self._multicast is None or not address[0] & 1:
            return False
        if kind != XEN_NETIF_EXTRA_TYPE_MCAST_ADD:
            self._multicast.discard(address)
        elif len(self._multicast) >= _MAX_MULTICAST:
            return False
        else:
            self._multicast.add(address)
        return True

    def room_again(self) -> None:
        if self._attachment is not None:
            self._attachment.guest_has_room()

    def count_dropped(self, count: int) -> None:
        self.statistics.tx_dropped += count

    def count_error(self, reason: str) -> None:
        self.statistics.rx_errors += 1

    # -- for its attachment -------------------------------------------------------------------------------------------------
    def deliver(self, frames: Sequence[Frame]) -> None:
        """Frames for the guest. Dropped while it is not connected."""
        if self._multicast is not None:
            frames = [frame for frame in frames if not frame.is_multicast or frame.destination in self._multicast | {_BROADCAST}]
        if not self._queues:
            self.count_dropped(len(frames))
            return
        self._observe(frames, to_guest=True)
        self.statistics.tx_packets += len(frames)
        self.statistics.tx_bytes += sum(len(frame.data) for frame in frames)
        if len(self._queues) == 1:
            self._queues[0].deliver(frames)
            return
        for index, queue in enumerate(self._queues):
            chosen = [frame for frame in frames if _flow(frame) % len(self._queues) == index]
            if chosen:
                queue.deliver(chosen)

    def has_room(self) -> bool:
        return not self._hands_over and all(queue.has_room() for queue in self._queues)

    def resume(self) -> None:
        for queue in self._queues:
            queue.resume()

    def _observe(self, frames: Sequence[Frame], *, to_guest: bool) -> None:
        for observer in self.observers:
            for frame in frames:
                observer(frame, to_guest)


def _flow(frame: Frame) -> int:
    """The same number for all frames of a connection: of addresses and ports, or where they would be."""
    return zlib.crc32(frame.data[23:24] + (frame.data[26:38] if frame.data[12:14] == b"\x08\x00" else frame.data[20:58]))


def network_backend(surroundings: Surroundings) -> BackendBus:
    """The network backend of a Domain 0."""
    return BackendBus(surroundings, "vif", functools.partial(NetworkDevice, switches=Switches()))
