"""Does what the requests of a virtual disk ask for, between the guest's pages and the image."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence

from pyxen.abi.io.blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
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

    def perform_at_once(self, request: BlockRequest, pages: GrantedPages) -> int | None:
        """As ``perform``, if nothing has to be waited for; None if something has, and nothing was done."""
        if request.operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
            return None
        return self._guarded(request, pages, may_wait=False)

    def perform(self, request: BlockRequest, pages: GrantedPages) -> int:
        """-> BLKIF_RSP_*."""
        status = self._guarded(request, pages, may_wait=True)
        assert status is not None
        return status

    def _guarded(self, request: BlockRequest, pages: GrantedPages, *, may_wait: bool) -> int | None:
        try:
            if not self._perform(request, pages, may_wait=may_wait):
                return None
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

    def _perform(self, request: BlockRequest, pages: GrantedPages, *, may_wait: bool) -> bool:
        """-> whether it is done."""
        image = self._image
        if request.operation == BLKIF_OP_FLUSH_DISKCACHE:
            image.flush()
        elif request.operation == BLKIF_OP_READ:
            return self._transfer(request, pages, image.read if may_wait else image.read_at_once)
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
                self._transfer(request, pages, image.write)
                image.flush()
        else:
            return self._transfer(request, pages, image.write if may_wait else image.write_at_once)
        return True

    def _transfer(self, request: BlockRequest, pages: GrantedPages, move: Callable[[Sequence[memoryview], int], bool | None]) -> bool:
        """-> whether it is done: only a ``move`` at once may fail to."""
        segments = block_request.check_segments(self._segments(request, pages))
        sectors = block_request.total_bytes(segments) // 512
        offset, _ = block_request.check_range(request.untrusted_sector, sectors, self._image.sectors())
        reading = request.operation == BLKIF_OP_READ
        with pages.mapped([segment.reference for segment in segments], writable=reading) as views:
            buffers = [view[segment.start : segment.end] for view, segment in zip(views, segments, strict=True)]
            try:
                if move(buffers, offset) is False:
                    return False
            finally:
                # Before the pages are unmapped: whatever was derived from their views would keep them in use.
                for buffer in buffers:
                    buffer.release()
        self._statistics.count(sectors, reading=reading)
        return True

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
