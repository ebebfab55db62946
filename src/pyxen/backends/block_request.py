"""Requests of a block ring (public header io/blkif.h), read from what a frontend put there and checked."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ctypes import sizeof
from dataclasses import dataclass

from pyxen.abi.compat import narrow_type
from pyxen.abi.io.blkif import (
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    blkif_request_segment,
    blkif_sring_entry,
)
from pyxen.abi.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64

SEGMENT_BYTES = sizeof(blkif_request_segment)
SEGMENTS_PER_PAGE = 4096 // SEGMENT_BYTES
#: feature-max-indirect-segments, as Linux's backend.
MAX_INDIRECT_SEGMENTS = 256

_SECTOR_SHIFT = 9
_SECTORS_PER_PAGE = 8
_SEGMENT = struct.Struct("<IBBxx")


class BadRequest(Exception):
    """The request breaks the protocol; it is answered with an error."""


class UnknownOperation(BadRequest):
    """It is answered with BLKIF_RSP_EOPNOTSUPP."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Part of one granted page, checked: bytes ``start`` to ``end`` (not included)."""

    reference: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """One request. Nothing in it is checked but the counts, which are within the protocol's limits.

    ``operation`` is what is to be done: with BLKIF_OP_INDIRECT the operation inside, and the response names that, too. Then the
    segments stand in the pages ``untrusted_indirect``, otherwise in ``untrusted_segments``.
    """

    operation: int
    request_id: int
    untrusted_sector: int = 0
    untrusted_sectors: int = 0  #: of a discard
    segment_count: int = 0
    untrusted_segments: bytes = b""
    untrusted_indirect: tuple[int, ...] = ()

    @property
    def is_barrier(self) -> bool:
        return self.operation == BLKIF_OP_WRITE_BARRIER


class RequestForm:
    """How requests lie in their slots. ``pad``: the octets before 64-bit members, which a 32-bit frontend's structures have not."""

    def __init__(self, slot_bytes: int, pad: str) -> None:
        self.slot_bytes = slot_bytes
        self._plain = struct.Struct(f"<BBH{pad}QQ")
        self._indirect = struct.Struct(f"<BBH{pad}QQHxx{BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST}I")
        self._discard = struct.Struct(f"<BBH{pad}QQQ")
        self._response = struct.Struct(f"<QBxh{pad}")

    def identify(self, slot: bytes) -> BlockRequest:
        """What is needed to answer the request in ``slot``, even a bad one."""
        operation, indirect_operation, _, request_id, sector = self._plain.unpack_from(slot)
        if operation == BLKIF_OP_INDIRECT:
            operation = indirect_operation
        return BlockRequest(operation, request_id, sector)

    def parse(self, slot: bytes) -> BlockRequest:
        """The request in ``slot``. Raises ``BadRequest``."""
        operation, count, _, request_id, sector = self._plain.unpack_from(slot)
        if operation in (BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE):
            if count > BLKIF_MAX_SEGMENTS_PER_REQUEST:
                raise BadRequest(f"{count} segments")
            if not count and operation in (BLKIF_OP_READ, BLKIF_OP_WRITE):
                raise BadRequest("no segments")
            start = self._plain.size
            return BlockRequest(operation, request_id, sector, 0, count, slot[start : start + count * SEGMENT_BYTES])
        if operation == BLKIF_OP_DISCARD:
            *_, sectors = self._discard.unpack_from(slot)
            return BlockRequest(operation, request_id, sector, sectors)
        if operation == BLKIF_OP_INDIRECT:
            return self._parse_indirect(slot)
        raise UnknownOperation(f"operation {operation}")

    def _parse_indirect(self, slot: bytes) -> BlockRequest:
        _, operation, count, request_id, sector, _, *references = self._indirect.unpack_from(slot)
        if operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            raise BadRequest(f"indirect operation {operation}")
        if not 0 < count <= MAX_INDIRECT_SEGMENTS:
            raise BadRequest(f"{count} indirect segments")
        pages = -(-count // SEGMENTS_PER_PAGE)
        return BlockRequest(operation, request_id, sector, 0, count, untrusted_indirect=tuple(references[:pages]))

    def response(self, request: BlockRequest, status: int) -> bytes:
        """``status``: BLKIF_RSP_*."""
        return self._response.pack(request.request_id, request.operation, status)


#: By the frontend's "protocol"; one that says nothing is 64-bit, as is Domain 0.
FORMS = {
    XEN_IO_PROTO_ABI_X86_64: RequestForm(sizeof(blkif_sring_entry), "xxxx"),
    XEN_IO_PROTO_ABI_X86_32: RequestForm(sizeof(narrow_type(blkif_sring_entry)), ""),
}


def check_segments(untrusted_segments: bytes) -> list[Segment]:
    """Raises ``BadRequest`` for a segment that is not within its page."""
    segments = []
    for reference, first, last in _SEGMENT.iter_unpack(untrusted_segments):
        if not first <= last < _SECTORS_PER_PAGE:
            raise BadRequest(f"segment from sector {first} to {last}")
        segments.append(Segment(reference, first << _SECTOR_SHIFT, (last + 1) << _SECTOR_SHIFT))
    return segments


def check_range(untrusted_sector: int, untrusted_sectors: int, disk_sectors: int) -> tuple[int, int]:
    """-> offset and length in bytes. Raises ``BadRequest`` beyond the disk's end."""
    if untrusted_sector + untrusted_sectors > disk_sectors:
        raise BadRequest(f"sector {untrusted_sector} and {untrusted_sectors} more: the disk has {disk_sectors}")
    return untrusted_sector << _SECTOR_SHIFT, untrusted_sectors << _SECTOR_SHIFT


def total_bytes(segments: Sequence[Segment]) -> int:
    return sum(segment.end - segment.start for segment in segments)
