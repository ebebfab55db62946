"""Does what the requests of a virtual disk ask for, between the guest's pages and the image."""

from __future__ import annotations

import errno
import logging

from pyxen.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from pyxen.backends import block_request
from pyxen.backends.block_image import DiskImage
from pyxen.backends.block_request import BadRequest, BlockRequest, UnknownOperation
from pyxen.backends.block_statistics import BlockStatistics
from pyxen.backends.granted_pages import GrantedPages
from pyxen.hypervisor.dom0_interface import HypercallError

_logger = logging.getLogger(__name__)


class BlockWorker:
    """Does what requests ask for. Called on any thread, for any ring of the disk."""

    def __init__(self, name: str, image: DiskImage, statistics: BlockStatistics) -> None:
        self._name = name
        self._image = image
        self._statistics = statistics
        self._told: set[int | None] = set()

    def perform(self, request: BlockRequest, pages: GrantedPages) -> int:
        """-> BLKIF_RSP_*."""
        try:
            self._perform(request, pages)
        except UnknownOperation:
            return BLKIF_RSP_EOPNOTSUPP
        except (BadRequest, HypercallError) as refusal:
            _logger.debug("%s: bad request: %s", self._name, refusal)
            return BLKIF_RSP_ERROR
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return BLKIF_RSP_EOPNOTSUPP
            self._tell(error)
            return BLKIF_RSP_ERROR
        except Exception:
            # Ours; but the guest must have its answer.
            _logger.exception("%s: request failed", self._name)
            return BLKIF_RSP_ERROR
        return BLKIF_RSP_OKAY

    def _perform(self, request: BlockRequest, pages: GrantedPages) -> None:
        image = self._image
        if request.operation == BLKIF_OP_FLUSH_DISKCACHE:
            image.flush()
        elif request.operation == BLKIF_OP_READ:
            self._transfer(request, pages)
        elif not image.writable:
            raise BadRequest("the disk is read-only")
        elif request.operation == BLKIF_OP_DISCARD:
            sectors = request.untrusted_sectors
            offset, length = block_request.check_range(request.untrusted_sector, sectors, image.sectors())
            if length:  # fallocate() refuses to do nothing, Linux's backend does not
                image.discard(offset, length)
        elif request.operation == BLKIF_OP_WRITE_BARRIER:
            image.flush()
            if request.segment_count:
                self._transfer(request, pages)
                image.flush()
        else:
            self._transfer(request, pages)

    def _transfer(self, request: BlockRequest, pages: GrantedPages) -> None:
        segments = block_request.check_segments(self._segments(request, pages))
        sectors = block_request.total_bytes(segments) // 512
        offset, _ = block_request.check_range(request.untrusted_sector, sectors, self._image.sectors())
        reading = request.operation == BLKIF_OP_READ
        with pages.mapped([segment.reference for segment in segments], writable=reading) as views:
            buffers = [view[segment.start : segment.end] for view, segment in zip(views, segments, strict=True)]
            try:
                if reading:
                    self._image.read(buffers, offset)
                else:
                    self._image.write(buffers, offset)
            finally:
                # Before the pages are unmapped: whatever was derived from their views would keep them in use.
                for buffer in buffers:
                    buffer.release()
        self._statistics.count(sectors, reading=reading)

    @staticmethod
    def _segments(request: BlockRequest, pages: GrantedPages) -> bytes:
        """The segments' descriptors, copied once: the guest may change its pages at any time."""
        if not request.untrusted_indirect:
            return request.untrusted_segments
        with pages.mapped(request.untrusted_indirect, writable=False) as views:
            return b"".join(views)[: request.segment_count * block_request.SEGMENT_BYTES]

    def _tell(self, error: OSError) -> None:
        """Once for each kind of fault: a guest that tries again and again must not fill the log."""
        if error.errno not in self._told:
            self._told.add(error.errno)
            _logger.error("%s: %s: %s; the guest gets an I/O error", self._name, self._image.path, error.strerror)
