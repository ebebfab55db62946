"""Requests of a block ring (public header io/blkif.h, x86_64 layout), read from what a frontend put there and checked."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from ctypes import sizeof
from dataclasses import dataclass

from pyxen.abi.io.blkif import (
    BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST,
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    blkif_request,
    blkif_request_discard,
    blkif_request_indirect,
    blkif_request_segment,
    blkif_sring_entry,
)

SLOT_BYTES = sizeof(blkif_sring_entry)
SEGMENT_BYTES = sizeof(blkif_request_segment)
SEGMENTS_PER_PAGE = 4096 // SEGMENT_BYTES
#: feature-max-indirect-segments, as Linux's backend.
MAX_INDIRECT_SEGMENTS = 256

_SECTOR_SHIFT = 9
_SECTORS_PER_PAGE = 8
_SEGMENT = struct.Struct("<IBBxx")
_RESPONSE = struct.Struct("<QBxhxxxx")


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

    def response(self, status: int) -> bytes:
        """``status``: BLKIF_RSP_*."""
        return _RESPONSE.pack(self.request_id, self.operation, status)


_PLAIN = struct.Struct("<BBHxxxxQQ")
_INDIRECT = struct.Struct(f"<BBHxxxxQQHxx{BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST}I")
_DISCARD = struct.Struct("<BBHxxxxQQQ")
assert _PLAIN.size == blkif_request.seg.offset
assert _INDIRECT.size <= sizeof(blkif_request_indirect)
assert _DISCARD.size == sizeof(blkif_request_discard)


def identify(slot: bytes) -> BlockRequest:
    """What is needed to answer the request in ``slot``, even a bad one."""
    operation, indirect_operation, _, request_id, sector = _PLAIN.unpack_from(slot)
    if operation == BLKIF_OP_INDIRECT:
        operation = indirect_operation
    return BlockRequest(operation, request_id, sector)


def parse(slot: bytes) -> BlockRequest:
    """The request in ``slot``. Raises ``BadRequest``."""
    operation, count, _, request_id, sector = _PLAIN.unpack_from(slot)
    if operation in (BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE):
        if count > BLKIF_MAX_SEGMENTS_PER_REQUEST:
            raise BadRequest(f"{count} segments")
        if not count and operation in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            raise BadRequest("no segments")
        segments = slot[_PLAIN.size : _PLAIN.size + count * SEGMENT_BYTES]
        return BlockRequest(operation, request_id, sector, 0, count, segments)
    if operation == BLKIF_OP_DISCARD:
        *_, sectors = _DISCARD.unpack_from(slot)
        return BlockRequest(operation, request_id, sector, sectors)
    if operation == BLKIF_OP_INDIRECT:
        return _parse_indirect(slot)
    raise UnknownOperation(f"operation {operation}")


def _parse_indirect(slot: bytes) -> BlockRequest:
    _, operation, count, request_id, sector, _, *references = _INDIRECT.unpack_from(slot)
    if operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
        raise BadRequest(f"indirect operation {operation}")
    if not 0 < count <= MAX_INDIRECT_SEGMENTS:
        raise BadRequest(f"{count} indirect segments")
    pages = -(-count // SEGMENTS_PER_PAGE)
    return BlockRequest(operation, request_id, sector, 0, count, untrusted_indirect=tuple(references[:pages]))


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
