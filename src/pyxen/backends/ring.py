"""The backend's side of a request and response ring (public header io/ring.h), over one or more granted pages."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pyxen.abi.io.ring import CONST_RING_SIZE, sring

_INDEX_MASK = 0xFFFFFFFF
_HEADER_BYTES = 64
_PAGE_BYTES = 4096
_REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT = (
    getattr(sring, name).offset // 4 for name in ("req_prod", "req_event", "rsp_prod", "rsp_event")
)


class RingError(Exception):
    """The frontend's producer index makes no sense; the frontend is at fault."""


@dataclass(frozen=True)
class RingPosition:
    """How far a backend has got in a ring."""

    request_consumer: int
    response_producer: int  #: as the frontend sees it


class BackRing:
    """Takes requests and puts responses. The pages are the frontend's to scribble on: its index is checked at each use, a request is
    copied out once, and the backend's own indexes are kept here and only ever written there.

    At most as many requests are taken and unanswered as the ring has slots: an honest frontend can't have more, and another is refused.
    Belongs to one thread.
    """

    def __init__(self, pages: Sequence[memoryview], slot_bytes: int, position: RingPosition | None = None) -> None:
        """``position``: where an earlier ``BackRing`` of the same pages was, whose owner also has what was taken and not answered."""
        self._pages = pages
        self._header = pages[0][:_HEADER_BYTES].cast("I")
        self._slot_bytes = slot_bytes
        self.slots = CONST_RING_SIZE(slot_bytes, len(pages) * _PAGE_BYTES)
        # A frontend that was connected to another backend before goes on where that one stopped (RING_ATTACH).
        responses: int = self._header[_RSP_PROD]
        start = position or RingPosition(responses, responses)
        self._request_consumer, self._response_producer = start.request_consumer, start.response_producer
        self._unpushed = 0
        self._fence = threading.Lock()

    @property
    def position(self) -> RingPosition:
        """Responses that were not pushed do not count."""
        return RingPosition(self._request_consumer, self._response_producer)

    def take(self) -> Iterator[bytes]:
        """The requests that are there, each copied out of the ring. Raises ``RingError``."""
        untrusted_producer = self._header[_REQ_PROD]
        unanswered = (self._request_consumer - self._response_producer) & _INDEX_MASK
        # From the consumer on, not from the responses: a producer that went back behind what was taken would be far ahead of it.
        if (untrusted_producer - self._request_consumer) & _INDEX_MASK > self.slots - unanswered:
            raise RingError(
                f"request producer {untrusted_producer:#x} has run away: {self._request_consumer:#x} were taken, {unanswered} of them "
                f"are not answered, {self.slots} slots"
            )
        while self._request_consumer != untrusted_producer:
            slot = self._read_slot(self._request_consumer)
            self._request_consumer = (self._request_consumer + 1) & _INDEX_MASK
            yield slot

    def more_requests(self) -> bool:
        """Ask for an event at the next request, and look once more for one that came meanwhile (RING_FINAL_CHECK_FOR_REQUESTS)."""
        self._header[_REQ_EVENT] = (self._request_consumer + 1) & _INDEX_MASK
        self._order_store_and_load()
        return bool(self._header[_REQ_PROD] != self._request_consumer)

    def put(self, response: bytes) -> None:
        """Write one response; the frontend may see it only after ``push``."""
        offset = self._offset(self._response_producer + self._unpushed)
        page, start = divmod(offset, _PAGE_BYTES)
        self._unpushed += 1
        first = response[: _PAGE_BYTES - start]
        self._pages[page][start : start + len(first)] = first
        if len(first) < len(response):
            self._pages[page + 1][: len(response) - len(first)] = response[len(first) :]

    def push(self) -> bool:
        """Show the frontend the responses. -> whether it wants an event (RING_PUSH_RESPONSES_AND_CHECK_NOTIFY)."""
        old = self._response_producer
        new = self._response_producer = (old + self._unpushed) & _INDEX_MASK
        self._unpushed = 0
        self._header[_RSP_PROD] = new  # x86 keeps the order of stores: the responses are there already
        self._order_store_and_load()
        return bool((new - self._header[_RSP_EVENT]) & _INDEX_MASK < (new - old) & _INDEX_MASK)

    def release(self) -> None:
        """Let go of the pages, so that they can be unmapped."""
        self._header.release()

    def _order_store_and_load(self) -> None:
        """Our store above is seen before the load below is done. Taking a lock is an atomic operation, and so a full fence on x86."""
        with self._fence:
            pass

    def _offset(self, index: int) -> int:
        return _HEADER_BYTES + (index & (self.slots - 1)) * self._slot_bytes

    def _read_slot(self, index: int) -> bytes:
        page, start = divmod(self._offset(index), _PAGE_BYTES)
        slot = bytes(self._pages[page][start : start + self._slot_bytes])
        if len(slot) < self._slot_bytes:
            slot += bytes(self._pages[page + 1][: self._slot_bytes - len(slot)])
        return slot
