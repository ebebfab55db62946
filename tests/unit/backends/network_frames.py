"""TCP frames, and whether their checksums are right, computed as RFC 1071 says it."""

from __future__ import annotations

import struct


def ones_sum(data: bytes) -> int:
    """Word by word, with the carry added back."""
    if len(data) & 1:
        data += b"\0"
    total = 0
    for (word,) in struct.iter_unpack(">H", data):
        total += word
        total = (total & 0xFFFF) + (total >> 16)
    return total


def tcp_frame(version: int, source: bytes, payload: bytes, flags: int = 0x18) -> bytes:
    """To everybody, with its IP checksum but a TCP checksum of the pseudo header only."""
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
    else:
        addresses = bytes.fromhex("fd00" + "00" * 13 + "01" + "fd00" + "00" * 13 + "02")
    size = 20 + len(payload)
    pseudo = ones_sum(addresses + struct.pack(">II", size, 6))
    tcp = struct.pack(">HHIIBBHHH", 1234, 80, 0xFFFFFF00, 5, 5 << 4, flags, 1000, pseudo, 0) + payload
    if version == 4:
        header = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 20 + size, 0xFFFE, 0x4000, 64, 6, 0) + addresses)
        struct.pack_into(">H", header, 10, 0xFFFF - ones_sum(bytes(header)))
        kind = b"\x08\x00"
    else:
        header = bytearray(struct.pack(">IHBB", 6 << 28, size, 6, 64) + addresses)
        kind = b"\x86\xdd"
    return b"\xff" * 6 + source + kind + bytes(header) + tcp


def checksums_are_right(frame: bytes) -> bool:
    """Of IP and TCP."""
    if frame[12:14] == b"\x08\x00":
        header, datagram, addresses = frame[14:34], frame[34:], frame[26:34]
        if ones_sum(header) != 0xFFFF or int.from_bytes(header[2:4], "big") != len(frame) - 14:
            return False
    else:
        datagram, addresses = frame[54:], frame[22:54]
        if int.from_bytes(frame[18:20], "big") != len(datagram):
            return False
    return ones_sum(addresses + struct.pack(">II", len(datagram), 6) + datagram) == 0xFFFF
