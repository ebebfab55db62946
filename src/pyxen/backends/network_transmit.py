"""What a frontend sends: packets from the slots of its transmit ring (public header io/netif.h), by the rules of Linux's netback."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from pyxen.abi.io.netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_GSO_TYPE_NONE,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    XEN_NETIF_NR_SLOTS_MIN,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from pyxen.backends.network_frame import ETHERNET_HEADER

SLOT_BYTES = 12
#: More slots than this for one packet are an attack (netback's max_skb_slots); between XEN_NETIF_NR_SLOTS_MIN and this, a mistake.
_FATAL_SLOTS = 20
_PAGE_BYTES = 4096

_REQUEST = struct.Struct("<IHHHH")  # gref, offset, flags, id, size
_EXTRA = struct.Struct("<BB6s4x")  # type, flags, what the type says
_GSO = struct.Struct("<HB3x")  # size, type
_RESPONSE = struct.Struct("<Hh8x")


class TransmitFault(Exception):
    """The frontend breaks the protocol in a way that no honest one does: the device is closed."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a packet, within one granted page."""

    untrusted_reference: int
    offset: int
    size: int


@dataclass(slots=True)
class TransmitPacket:
    """A packet as its slots describe it. Its sizes are checked; its grant references are not."""

    size: int  #: octets
    flags: int
    ids: list[int]  #: one for each slot that holds a fragment
    extras: int = 0  #: slots of extra info
    fragments: list[Fragment] = field(default_factory=list)
    gso_size: int = 0
    gso_type: int = XEN_NETIF_GSO_TYPE_NONE
    multicast: tuple[int, bytes] | None = None  #: XEN_NETIF_EXTRA_TYPE_MCAST_ADD or DEL, and the address; then there is no packet
    reason: str = ""  #: why it is refused; empty if it is not

    @property
    def blank(self) -> bool:
        return bool(self.flags & NETTXF_csum_blank)

    @property
    def validated(self) -> bool:
        return bool(self.flags & NETTXF_data_validated)

    def responses(self, okay: bool) -> Iterator[bytes]:
        """One for each slot."""
        status = NETIF_RSP_OKAY if okay else NETIF_RSP_ERROR
        yield _RESPONSE.pack(self.ids[0], status)
        for _ in range(self.extras):
            yield _RESPONSE.pack(0, NETIF_RSP_NULL)
        for request_id in self.ids[1:]:
            yield _RESPONSE.pack(request_id, status)


def parse_packets(slots: Iterator[bytes]) -> Iterator[TransmitPacket]:
    """The packets that these slots hold, which must be whole. Raises ``TransmitFault``."""
    for slot in slots:
        reference, offset, flags, request_id, size = _REQUEST.unpack(slot)
        packet = TransmitPacket(size, flags, [request_id])
        if flags & NETTXF_extra_info:
            _read_extras(packet, slots)
        if packet.multicast is None:
            _read_fragments(packet, reference, offset, slots)
        yield packet


def _read_extras(packet: TransmitPacket, slots: Iterator[bytes]) -> None:
    more = True
    while more:
        slot = next(slots, None)
        if slot is None:
            raise TransmitFault("missing extra info")
        kind, flags, body = _EXTRA.unpack(slot)
        if not 0 < kind < XEN_NETIF_EXTRA_TYPE_MAX:
            raise TransmitFault(f"invalid extra type {kind}")
        packet.extras += 1
        if kind == XEN_NETIF_EXTRA_TYPE_GSO:
            packet.gso_size, packet.gso_type = _GSO.unpack(body)
            if not packet.gso_size:
                raise TransmitFault("GSO size must not be zero")
            if packet.gso_type not in (XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6):
                raise TransmitFault(f"bad GSO type {packet.gso_type}")
        elif kind in (XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL):
            packet.multicast = kind, body
        more = bool(flags & XEN_NETIF_EXTRA_FLAG_MORE)


def _read_fragments(packet: TransmitPacket, reference: int, offset: int, slots: Iterator[bytes]) -> None:
    """The first slot's size is that of the whole packet, the others' of their own parts."""
    rest = packet.size
    tail: list[Fragment] = []
    more = packet.flags & NETTXF_more_data
    while more:
        slot = next(slots, None)
        if slot is None:
            raise TransmitFault(f"a packet of {1 + len(tail)} slots goes on beyond the last one")
        fragment_reference, fragment_offset, flags, request_id, size = _REQUEST.unpack(slot)
        packet.ids.append(request_id)
        if len(packet.ids) >= _FATAL_SLOTS:
            raise TransmitFault(f"a packet of {len(packet.ids)} slots or more")
        if fragment_offset + size > _PAGE_BYTES:
            raise TransmitFault(f"cross page boundary, offset: {fragment_offset}, size: {size}")
        if size > rest:
            packet.reason = packet.reason or f"slot size {size} > remaining size {rest}"
        else:
            rest -= size
            tail.append(Fragment(fragment_reference, fragment_offset, size))
        more = flags & NETTXF_more_data
    if len(packet.ids) > XEN_NETIF_NR_SLOTS_MIN:
        packet.reason = packet.reason or f"{len(packet.ids)} slots, over {XEN_NETIF_NR_SLOTS_MIN}"
    if packet.size < ETHERNET_HEADER:
        packet.reason = packet.reason or f"bad packet size {packet.size}"
    if packet.reason:
        return
    if offset + rest > _PAGE_BYTES:
        raise TransmitFault(f"cross page boundary, offset: {offset}, size: {rest}")
    packet.fragments = [Fragment(reference, offset, rest), *tail]
