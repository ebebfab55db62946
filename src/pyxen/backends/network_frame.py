"""Ethernet frames between vifs and what they are attached to: unfinished checksums and unsegmented TCP, as NICs with offloads take them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import NamedTuple

from pyxen.abi.io.netif import XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4

ETHERNET_HEADER = 14
TCP, UDP = 6, 17
_IPV4, _IPV6, _VLAN = 0x0800, 0x86DD, 0x8100
_HOP_BY_HOP, _ROUTING, _DESTINATION = 0, 43, 60
#: Of the field, from the transport header's start.
CHECKSUM_OFFSET = {TCP: 16, UDP: 6}
_TCP_FIN_PSH, _TCP_CWR = 0x09, 0x80


@dataclass(slots=True)
class Frame:
    """One frame, or one that stands for many (``gso_size``). ``data`` is not changed once others may have seen it."""

    data: bytearray | bytes
    blank: bool = False  #: the transport checksum is the pseudo header's only; whoever needs it whole completes it
    validated: bool = False  #: the transport checksum need not be looked at
    gso_size: int = 0  #: octets of TCP payload in each segment that this becomes on a wire
    gso_type: int = XEN_NETIF_GSO_TYPE_NONE  #: XEN_NETIF_GSO_TYPE_*

    @property
    def destination(self) -> bytes:
        return bytes(self.data[:6])

    @property
    def source(self) -> bytes:
        return bytes(self.data[6:12])

    @property
    def is_multicast(self) -> bool:
        """Broadcasts too."""
        return bool(self.data[0] & 1)


class Transport(NamedTuple):
    """Where a frame's headers are, in octets from its start."""

    network: int
    transport: int
    end: int  #: of the datagram; there may be padding after it
    protocol: int
    version: int  #: 4 or 6


def transport_of(data: bytearray | bytes) -> Transport | None:
    """The TCP or UDP header of an IP datagram that is no fragment. None for anything else, and for headers that make no sense."""
    network, kind = ETHERNET_HEADER, int.from_bytes(data[12:14])
    if kind == _VLAN:
        network, kind = network + 4, int.from_bytes(data[16:18])
    if kind == _IPV4 and len(data) >= network + 20 and data[network] >> 4 == 4:
        transport = network + (data[network] & 15) * 4
        end = network + int.from_bytes(data[network + 2 : network + 4])
        protocol, version = data[network + 9], 4
        if int.from_bytes(data[network + 6 : network + 8]) & 0x3FFF:
            return None
    elif kind == _IPV6 and len(data) >= network + 40 and data[network] >> 4 == 6:
        transport, protocol, version = network + 40, data[network + 6], 6
        end = transport + int.from_bytes(data[network + 4 : network + 6])
        while protocol in (_HOP_BY_HOP, _ROUTING, _DESTINATION) and transport + 8 <= len(data):
            protocol, transport = data[transport], transport + 8 + data[transport + 1] * 8
    else:
        return None
    header = {TCP: 20, UDP: 8}.get(protocol)
    if header is None or end > len(data) or transport + header > end:
        return None
    return Transport(network, transport, end, protocol, version)


def internet_checksum(*parts: bytes | bytearray | memoryview) -> int:
    """The Internet checksum (RFC 1071) of parts of even length, but for the last; in the form that is never 0.
    A number in base 65536 and the sum of its digits are the same modulo 65535."""
    total = 0
    for part in parts:
        number = int.from_bytes(part)
        total += number << 8 if len(part) & 1 else number
    return 0xFFFF - total % 0xFFFF


def completed(frame: Frame) -> Frame:
    """The frame with its transport checksum in place."""
    if not frame.blank:
        return frame
    data = bytearray(frame.data)
    where = transport_of(data)
    if where is not None:
        _fill_checksum(data, where)
    return Frame(data, validated=True, gso_size=frame.gso_size, gso_type=frame.gso_type)


def _fill_checksum(data: bytearray, where: Transport) -> None:
    field = where.transport + CHECKSUM_OFFSET[where.protocol]
    data[field : field + 2] = bytes(2)
    first, size = (12, 8) if where.version == 4 else (8, 32)
    addresses = data[where.network + first : where.network + first + size]
    pseudo = struct.pack(">II", where.end - where.transport, where.protocol)
    struct.pack_into(">H", data, field, internet_checksum(addresses, pseudo, memoryview(data)[where.transport : where.end]))


def segmented(frame: Frame) -> list[Frame]:
    """What a frame with ``gso_size`` becomes on a wire, with all checksums. Empty for one that is no TCP."""
    where = transport_of(frame.data)
    if not frame.gso_size:
        return [completed(frame)]
    if where is None or where.protocol != TCP:
        return []
    data = frame.data
    payload = where.transport + (data[where.transport + 12] >> 4) * 4
    if not where.transport + 20 <= payload <= where.end:
        return []
    sequence = int.from_bytes(data[where.transport + 4 : where.transport + 8])
    identification = int.from_bytes(data[where.network + 4 : where.network + 6])
    frames = []
    for index, start in enumerate(range(payload, where.end, frame.gso_size) or [payload]):
        part = data[start : min(start + frame.gso_size, where.end)]
        segment = bytearray(data[:payload]) + part
        flags = where.transport + 13
        if start + frame.gso_size < where.end:
            segment[flags] &= ~_TCP_FIN_PSH
        if index:
            segment[flags] &= ~_TCP_CWR & 0xFF
        struct.pack_into(">I", segment, where.transport + 4, sequence + start - payload & 0xFFFFFFFF)
        size = len(segment) - where.network
        if where.version == 4:
            struct.pack_into(">HH", segment, where.network + 2, size, identification + index & 0xFFFF)
            segment[where.network + 10 : where.network + 12] = bytes(2)
            header = memoryview(segment)[where.network : where.transport]
            struct.pack_into(">H", segment, where.network + 10, internet_checksum(header))
        else:
            struct.pack_into(">H", segment, where.network + 4, size - 40)
        _fill_checksum(segment, Transport(where.network, where.transport, len(segment), TCP, where.version))
        frames.append(Frame(segment, validated=True))
    return frames


def gso_version(frame: Frame) -> int:
    """4 or 6: which kind of TCP the frame's segments are."""
    return 4 if frame.gso_type == XEN_NETIF_GSO_TYPE_TCPV4 else 6
