"""The wire protocol's messages: a header (struct xsd_sockmsg) and up to 4096 bytes of payload (xs_wire.h)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from pyxen.abi.io import xs_wire
from pyxen.xenstore.errors import ProtocolViolationError

HEADER = struct.Struct("<IIII")

OK = b"OK\0"


class Message(NamedTuple):
    """A request as it came in: everything in it is untrusted, but the payload's length is within the limit."""

    type: int
    request_id: int
    transaction_id: int
    payload: bytes


def pack(message_type: int, request_id: int, transaction_id: int, payload: bytes) -> bytes:
    """A message as it goes over the wire. The caller has checked the payload's length."""
    return HEADER.pack(message_type, request_id, transaction_id, len(payload)) + payload


def pack_event(path: str, token: bytes) -> bytes | None:
    """An XS_WATCH_EVENT, None if it would be too long to send."""
    payload = b"%s\0%s\0" % (path.encode("ascii"), token)
    if len(payload) > xs_wire.XENSTORE_PAYLOAD_MAX:
        return None
    return pack(xs_wire.XS_WATCH_EVENT, 0, 0, payload)


class Reassembler:
    """Turns a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        """Bytes that are waiting: of complete and incomplete messages."""
        return len(self._buffer)

    def feed(self, untrusted_data: bytes | memoryview) -> None:
        """Take more of the stream."""
        self._buffer += untrusted_data

    def next(self) -> Message | None:
        """The next complete message. ProtocolViolationError when a header announces too long a payload."""
        buffer = self._buffer
        if len(buffer) < HEADER.size:
            return None
        message_type, request_id, transaction_id, untrusted_length = HEADER.unpack_from(buffer)
        if untrusted_length > xs_wire.XENSTORE_PAYLOAD_MAX:
            raise ProtocolViolationError(f"a payload of {untrusted_length} bytes was announced")
        end = HEADER.size + untrusted_length
        if len(buffer) < end:
            return None
        payload = bytes(buffer[HEADER.size : end])
        del buffer[:end]
        return Message(message_type, request_id, transaction_id, payload)

    def clear(self) -> None:
        """Drop everything."""
        self._buffer.clear()
