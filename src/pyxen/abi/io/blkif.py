"""Block device ring (public header io/blkif.h). Sectors on the ring are 512 bytes, whatever the disk's own size."""

from __future__ import annotations

from ctypes import Structure, Union, c_int16, c_uint8, c_uint16, c_uint32, c_uint64

from pyxen.abi.grant_table import grant_ref_t

blkif_vdev_t = c_uint16
blkif_sector_t = c_uint64

BLKIF_OP_READ = 0
BLKIF_OP_WRITE = 1
BLKIF_OP_WRITE_BARRIER = 2  # if the backend has feature-barrier
BLKIF_OP_FLUSH_DISKCACHE = 3  # if the backend has feature-flush-cache
BLKIF_OP_RESERVED_1 = 4
BLKIF_OP_DISCARD = 5  # if the backend has feature-discard
BLKIF_OP_INDIRECT = 6  # if the backend has feature-max-indirect-segments

BLKIF_MAX_SEGMENTS_PER_REQUEST = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST = 8

BLKIF_DISCARD_SECURE = 1 << 0

BLKIF_RSP_OKAY = 0
BLKIF_RSP_ERROR = -1
BLKIF_RSP_EOPNOTSUPP = -2

# Bits of the ``info`` key in XenStore.
VDISK_CDROM = 1
VDISK_REMOVABLE = 2
VDISK_READONLY = 4


class blkif_request_segment(Structure):
    """Part of one page: from ``first_sect`` to ``last_sect``, both included."""

    _fields_ = [
        ("gref", grant_ref_t),
        ("first_sect", c_uint8),
        ("last_sect", c_uint8),
    ]


class blkif_request(Structure):
    """Read, write, barrier or flush."""

    _fields_ = [
        ("operation", c_uint8),  # BLKIF_OP_*
        ("nr_segments", c_uint8),
        ("handle", blkif_vdev_t),
        ("id", c_uint64),  # given back in the response
        ("sector_number", blkif_sector_t),
        ("seg", blkif_request_segment * BLKIF_MAX_SEGMENTS_PER_REQUEST),
    ]


class blkif_request_discard(Structure):
    """Discard sectors."""

    _fields_ = [
        ("operation", c_uint8),  # BLKIF_OP_DISCARD
        ("flag", c_uint8),  # BLKIF_DISCARD_SECURE or 0
        ("handle", blkif_vdev_t),
        ("id", c_uint64),
        ("sector_number", blkif_sector_t),
        ("nr_sectors", c_uint64),
    ]


class blkif_request_indirect(Structure):
    """Read or write with its segments in granted pages."""

    _fields_ = [
        ("operation", c_uint8),  # BLKIF_OP_INDIRECT
        ("indirect_op", c_uint8),  # BLKIF_OP_READ or BLKIF_OP_WRITE
        ("nr_segments", c_uint16),
        ("id", c_uint64),
        ("sector_number", blkif_sector_t),
        ("handle", blkif_vdev_t),
        ("indirect_grefs", c_uint32 * BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST),
    ]


class blkif_response(Structure):
    """Answer to any request."""

    _fields_ = [
        ("id", c_uint64),
        ("operation", c_uint8),
        ("status", c_int16),  # BLKIF_RSP_*
    ]


class blkif_sring_entry(Union):
    """Slot of the ring."""

    _fields_ = [("req", blkif_request), ("rsp", blkif_response)]
