"""One request ring of a virtual disk: requests come off it on the event loop, and are served by a few threads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
from pyxen.backends.block_image import BlockImage
from pyxen.backends.block_request import BadRequest, BlockRequest, UnknownOperation
from pyxen.backends.device import DeviceError
from pyxen.backends.granted_pages import GrantedPages
from pyxen.backends.ring import BackRing, RingError
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError

_logger = logging.getLogger(__name__)


class BlockWorker:
    """Does what requests ask for. Called on any thread, for any ring of the disk."""

    def __init__(self, name: str, image: BlockImage) -> None:
        self._name = name
        self._image = image
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
            image.discard(*block_request.check_range(request.untrusted_sector, sectors, image.sectors()))
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
            if reading:
                self._image.read(buffers, offset)
            else:
                self._image.write(buffers, offset)

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


@dataclass(frozen=True)
class RingPlace:
    """Where a frontend's ring is: the references of its pages, and its event channel."""

    untrusted_references: tuple[int, ...]
    untrusted_port: int


class BlockRing:
    """Belongs to the event loop's thread."""

    def __init__(
        self,
        dom0: Dom0Hypercalls,
        domid: int,
        place: RingPlace,
        *,
        persistent: bool,
        worker: BlockWorker,
        threads: ThreadPoolExecutor,
        failed: Callable[[DeviceError], None],
    ) -> None:
        """Raises ``HypercallError`` for a place that is not granted; then nothing is held."""
        self._dom0 = dom0
        self._domid = domid
        self._references = place.untrusted_references
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._threads = threads
        self._failed = failed
        self._pending: deque[BlockRequest] = deque()
        self._finished: deque[tuple[BlockRequest, int]] = deque()
        self._running = 0
        self._barrier_runs = False
        self._turn_is_due = False
        self._closed = False
        self._drained = asyncio.Event()
        self._drained.set()
        with contextlib.ExitStack() as undo:
            ring_pages = dom0.map_grants(domid, self._references, writable=True)
            undo.callback(dom0.unmap_grants, domid, self._references)
            self._ring = BackRing(ring_pages, block_request.SLOT_BYTES)
            self._pages = GrantedPages(dom0, domid, persistent=persistent)
            self._port = dom0.bind_interdomain(domid, place.untrusted_port, self._event)
            undo.pop_all()
        # What the frontend asked for before we were bound, and no event will tell.
        self._event()

    async def close(self) -> None:
        """Let what runs come to its end, and let go of the guest."""
        self._closed = True
        self._pending.clear()
        with contextlib.suppress(HypercallError):
            self._dom0.close_port(self._port)
        await self._drained.wait()
        self._ring.release()
        self._pages.release()
        with contextlib.suppress(HypercallError):
            self._dom0.unmap_grants(self._domid, self._references)

    def _event(self) -> None:
        """The guest's event, or the end of a request; on any thread. One turn on the loop serves any number of them."""
        if not self._turn_is_due:
            self._turn_is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the host is going down
                self._loop.call_soon_threadsafe(self._turn)

    def _turn(self) -> None:
        self._turn_is_due = False
        self._answer_finished()
        if self._closed:
            return
        try:
            while True:
                for slot in self._ring.take():
                    self._accept(slot)
                if not self._ring.more_requests():
                    break
        except RingError as error:
            self._closed = True
            self._failed(DeviceError(errno.EINVAL, str(error)))
            return
        self._start_pending()
        self._push()

    def _accept(self, slot: bytes) -> None:
        try:
            self._pending.append(block_request.parse(slot))
        except UnknownOperation:
            self._ring.put(block_request.identify(slot).response(BLKIF_RSP_EOPNOTSUPP))
        except BadRequest as error:
            _logger.debug("domain %d: bad request: %s", self._domid, error)
            self._ring.put(block_request.identify(slot).response(BLKIF_RSP_ERROR))

    def _start_pending(self) -> None:
        """A barrier waits for all before it, and all after it wait for it."""
        while self._pending and not self._barrier_runs and not (self._pending[0].is_barrier and self._running):
            request = self._pending.popleft()
            self._barrier_runs = request.is_barrier
            self._running += 1
            self._drained.clear()
            self._threads.submit(self._serve, request)

    def _serve(self, request: BlockRequest) -> None:
        """On a worker thread."""
        self._finished.append((request, self._worker.perform(request, self._pages)))
        self._event()

    def _answer_finished(self) -> None:
        while self._finished:
            request, status = self._finished.popleft()
            self._running -= 1
            if request.is_barrier:
                self._barrier_runs = False
            if not self._closed:
                self._ring.put(request.response(status))
        if not self._running:
            self._drained.set()

    def _push(self) -> None:
        if self._ring.push():
            with contextlib.suppress(HypercallError):  # the guest closed its port, or dies
                self._dom0.notify(self._port)
