"""One request ring of a virtual disk, with a thread of its own.

The thread takes requests off the ring, serves those that have nothing to wait for (the host's page cache), and puts all answers. What has
to wait is served by the disk's other threads. So a short request costs two changes of threads: from the vCPU, and back to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pyxen.abi.io.blkif import BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR
from pyxen.backends.block_request import BadRequest, BlockRequest, RequestForm, UnknownOperation
from pyxen.backends.block_worker import BlockWorker
from pyxen.backends.device import DeviceError
from pyxen.backends.granted_pages import GrantedPages
from pyxen.backends.ring import BackRing, RingError, RingPosition
from pyxen.backends.service_thread import ServiceThread
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.xenstore.single_turn import SingleTurn

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RingPlace:
    """Where a frontend's ring is: the references of its pages, and its event channel. And how requests lie in it."""

    untrusted_references: tuple[int, ...]
    untrusted_port: int
    form: RequestForm


@dataclass(frozen=True)
class RingLegacy:
    """What a ring leaves to the one that goes on with the same frontend: requests are done again, which does no harm, since the frontend
    leaves their pages and sectors alone until it has an answer."""

    position: RingPosition
    unanswered: tuple[bytes, ...]  #: the requests' slots, in their order


class BlockRing:
    """Made and closed on the event loop's thread; all else is its own thread's."""

    def __init__(
        self,
        dom0: Dom0Hypercalls,
        domid: int,
        place: RingPlace,
        *,
        name: str,
        persistent: bool,
        worker: BlockWorker,
        threads: ThreadPoolExecutor,
        failed: Callable[[DeviceError], None],
        crashed: Callable[[Exception], None],
        legacy: RingLegacy | None = None,
    ) -> None:
        """``failed``: told, on the loop, when the frontend breaks the protocol; ``crashed``: when we do. Then the ring does nothing more.
        Raises ``HypercallError`` for a place that is not granted; then nothing is held."""
        self._dom0 = dom0
        self._domid = domid
        self._references = place.untrusted_references
        self._form = place.form
        self._loop = asyncio.get_running_loop()
        self._worker = worker
        self._threads = threads
        self._failed = failed
        self._crashed = crashed
        #: The slots of all requests that were taken and not answered, by a running number.
        self._unanswered: dict[int, bytes] = {}
        self._last_number = 0
        self._unpushed: list[int] = []
        self._pending: deque[tuple[int, BlockRequest]] = deque()
        self._finished: deque[tuple[int, BlockRequest, int]] = deque()
        self._running = 0
        self._barrier_runs = False
        self._closed = False
        #: Given by ``close``: called when nothing runs any more.
        self._drained: Callable[[], None] | None = None
        with contextlib.ExitStack() as undo:
            ring_pages = dom0.map_grants(domid, self._references, writable=True)
            undo.callback(dom0.unmap_grants, domid, self._references)
            self._ring = BackRing(ring_pages, self._form.slot_bytes, legacy.position if legacy else None)
            undo.callback(self._ring.release)
            self._pages = GrantedPages(dom0, domid, persistent=persistent)
            self._inherited = legacy.unanswered if legacy else ()
            self._thread = ServiceThread(name)
            undo.callback(self._thread.stop)
            self._turn = SingleTurn(self._serve_turn, self._thread.call)
            self._port = dom0.bind_interdomain(domid, place.untrusted_port, self._turn.ask)
            undo.pop_all()
        # What the frontend asked for before we were bound, and no event will tell.
        self._turn.ask()

    def legacy(self) -> RingLegacy:
        """For a ring that goes on where this one was closed."""
        return RingLegacy(self._ring.position, (*self._unanswered.values(), *self._inherited))

    async def close(self) -> None:
        """Let what runs come to its end, answer nothing more, and let go of the guest."""
        self._closed = True
        drained = asyncio.Event()
        self._thread.call(lambda: self._end(lambda: self._tell(drained.set)))
        await drained.wait()
        # Not before: a turn that is under way pushes answers, and a frontend that is not told of them now never will be (rsp_event).
        with contextlib.suppress(HypercallError):
            self._dom0.close_port(self._port)
        self._thread.stop()
        self._ring.release()
        self._pages.release()
        with contextlib.suppress(HypercallError):
            self._dom0.unmap_grants(self._domid, self._references)

    def _tell(self, call: Callable[..., object], *arguments: object) -> None:
        """On the loop."""
        with contextlib.suppress(RuntimeError):  # it is closed: the host is going down
            self._loop.call_soon_threadsafe(call, *arguments)

    # -- on its own thread ------------------------------------------------------------------------------------------------------
    def _end(self, drained: Callable[[], None]) -> None:
        self._drained = drained
        self._pending.clear()
        self._answer_finished()

    def _serve_turn(self) -> None:
        """The guest's event, or the end of a request."""
        try:
            self._answer_finished()
            if not self._closed:
                self._take_requests()
                self._start_pending()
                self._push()
        except RingError as error:
            self._closed = True
            self._tell(self._failed, DeviceError(errno.EINVAL, str(error)))
        except Exception as error:
            self._closed = True
            self._answer_finished()
            self._tell(self._crashed, error)

    def _take_requests(self) -> None:
        while self._inherited:
            slot, *rest = self._inherited
            self._inherited = tuple(rest)  # before: when this fails, the slot is among the unanswered, and only there
            self._accept(slot)
        while True:
            for slot in self._ring.take():
                self._accept(slot)
            if not self._ring.more_requests():
                return

    def _accept(self, slot: bytes) -> None:
        self._last_number += 1
        number = self._last_number
        self._unanswered[number] = slot
        try:
            self._pending.append((number, self._form.parse(slot)))
        except UnknownOperation:
            self._answer(number, self._form.identify(slot), BLKIF_RSP_EOPNOTSUPP)
        except BadRequest as error:
            _logger.debug("domain %d: bad request: %s", self._domid, error)
            self._answer(number, self._form.identify(slot), BLKIF_RSP_ERROR)

    def _start_pending(self) -> None:
        """A barrier waits for all before it, and all after it wait for it."""
        while self._pending and not self._barrier_runs and not (self._pending[0][1].is_barrier and self._running):
            number, request = self._pending.popleft()
            status = self._worker.perform_at_once(request, self._pages)
            if status is not None:
                self._answer(number, request, status)
                continue
            self._barrier_runs = request.is_barrier
            self._running += 1
            self._threads.submit(self._serve, number, request)

    def _serve(self, number: int, request: BlockRequest) -> None:
        """On a worker thread."""
        self._finished.append((number, request, self._worker.perform(request, self._pages)))
        self._turn.ask()

    def _answer_finished(self) -> None:
        while self._finished:
            number, request, status = self._finished.popleft()
            self._running -= 1
            if request.is_barrier:
                self._barrier_runs = False
            if not self._closed:
                self._answer(number, request, status)
        if self._drained is not None and not self._running:
            self._drained()
            self._drained = None

    def _answer(self, number: int, request: BlockRequest, status: int) -> None:
        self._ring.put(self._form.response(request, status))
        self._unpushed.append(number)

    def _push(self) -> None:
        wants_event = self._ring.push()
        for number in self._unpushed:
            del self._unanswered[number]
        self._unpushed.clear()
        if wants_event:
            with contextlib.suppress(HypercallError):  # the guest closed its port, or dies
                self._dom0.notify(self._port)
