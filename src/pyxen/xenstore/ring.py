"""The connection to a guest over its shared page: struct xenstore_domain_interface (xs_wire.h, xenstore-ring.txt).

Everything in the page is the guest's to change at any time, the indexes of our side too (firmware clears the whole page when it
hands over to a kernel): each is read once, checked, and then used. A guest with impossible indexes is no longer served until it
asks for a new start by the reconnection protocol.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING

from pyxen.abi.io import xs_wire
from pyxen.xenstore.client import Connection, log
from pyxen.xenstore.errors import ProtocolViolationError, StoreError
from pyxen.xenstore.guest_link import GuestLink

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Daemon

RING_SIZE = xs_wire.XENSTORE_RING_SIZE
INDEX_MASK = 0xFFFFFFFF

#: Bit 2 of the server features (xenstore-ring.txt): XS_WATCH takes a depth. The header of 4.17 has no name for it.
XENSTORE_SERVER_FEATURE_WATCHDEPTH = 4
SERVER_FEATURES = xs_wire.XENSTORE_SERVER_FEATURE_RECONNECTION | xs_wire.XENSTORE_SERVER_FEATURE_ERROR | XENSTORE_SERVER_FEATURE_WATCHDEPTH

_INTERFACE = xs_wire.xenstore_domain_interface
_REQ_OFFSET = _INTERFACE.req.offset
_RSP_OFFSET = _INTERFACE.rsp.offset
# 32-bit words of the page: a memoryview of format "I" loads and stores each at once, as the other side needs it
_REQ_CONS = _INTERFACE.req_cons.offset // 4
_REQ_PROD = _INTERFACE.req_prod.offset // 4
_RSP_CONS = _INTERFACE.rsp_cons.offset // 4
_RSP_PROD = _INTERFACE.rsp_prod.offset // 4
_SERVER_FEATURES = _INTERFACE.server_features.offset // 4
_CONNECTION = _INTERFACE.connection.offset // 4
_ERROR = _INTERFACE.error.offset // 4

#: Seconds after which an index that a processor has stored is visible to every other one, many times over.
SECOND_LOOK_S = 0.01

_barrier = threading.Lock()


def memory_barrier() -> None:
    """Make our stores visible before what we load next: an index is published before the other side's index is looked at again,
    else both sides could believe that the other one will look."""
    with _barrier:
        pass


class RequestRate:
    """Allows a number of requests a second in the long run, and as many at once after a pause."""

    def __init__(self, now: float) -> None:
        self._updated = now
        self._credit = math.inf

    def wait(self, now: float, rate: int) -> float:
        """Seconds until the next request may be served: 0 if now."""
        if not rate:
            return 0.0
        self._credit = min(self._credit + (now - self._updated) * rate, float(rate))
        self._updated = now
        return 0.0 if self._credit >= 1 else (1 - self._credit) / rate

    def spend(self) -> None:
        """One request has been served."""
        self._credit -= 1


class RingConnection(Connection):
    """A guest's connection. ``turn`` is to be called in the loop's thread for each event of the guest."""

    def __init__(self, daemon: Daemon, domid: int) -> None:
        super().__init__(daemon, domid, privileged=domid == 0, name=f"domain {domid}")
        self.ignored = False  #: the guest broke the protocol or we failed; only a reconnection is listened to
        self._link: GuestLink | None = None
        self._words = memoryview(bytearray(4096)).cast("I")
        self._page = self._words.cast("B")
        self._partial = b""  #: rest of a message that did not fit into the ring
        self._moved = False  #: an index changed in this turn
        self._rate = RequestRate(daemon.scheduler.time())
        self._waiting_for_credit = False
        self._looks_again = False  #: a second look at a full ring is due, or was had

    def attach(self, link: GuestLink) -> None:
        """Start to use a page and event channel. The page starts empty; the guest is told that the store is there."""
        self._link = link
        self._page = link.page.cast("B")
        self._words = self._page.cast("I")
        self._words[_SERVER_FEATURES] = SERVER_FEATURES
        self._restart()

    def _restart(self) -> None:
        """Both queues empty, no error, connected; tell the guest."""
        words = self._words
        words[_REQ_CONS] = words[_REQ_PROD] = words[_RSP_CONS] = words[_RSP_PROD] = 0
        words[_ERROR] = xs_wire.XENSTORE_ERROR_NONE
        memory_barrier()
        words[_CONNECTION] = xs_wire.XENSTORE_CONNECTED
        self._partial = b""
        self.ignored = False
        self._notify()

    def _notify(self) -> None:
        assert self._link is not None
        try:
            self._link.notify()
        except StoreError as error:
            log.warning("%s: event channel does not work: %s", self.name, error)
            self._ignore(xs_wire.XENSTORE_ERROR_COMM)

    # -- turns -------------------------------------------------------------------------------------------------------
    def turn(self) -> None:
        """Serve the guest, or its wish to start anew."""
        if self.closed or self._link is None:
            return
        if self._words[_CONNECTION] == xs_wire.XENSTORE_RECONNECT:
            log.info("%s: reconnects", self.name)
            self.reset()
            self._restart()
        if not self.ignored:
            super().turn()

    def _may_serve(self) -> bool:
        if self.privileged:
            return True
        quotas = self.daemon.quotas
        if quotas.outstanding and self.outstanding >= quotas.outstanding:
            return False  # the ring is full then: the guest notifies when it takes something out
        scheduler = self.daemon.scheduler
        delay = self._rate.wait(scheduler.time(), quotas.request_rate)
        if delay and not self._waiting_for_credit:
            self._waiting_for_credit = True
            scheduler.call_later(delay, self._credit_gained)
        return not delay

    def _credit_gained(self) -> None:
        self._waiting_for_credit = False
        self.turn()

    def _receive(self) -> bool:
        words = self._words
        memory_barrier()
        consumer, producer = words[_REQ_CONS], words[_REQ_PROD]
        available = (producer - consumer) & INDEX_MASK
        if not available:
            return False
        if available > RING_SIZE:
            raise RingIndexError(f"request ring has consumer {consumer:#x}, producer {producer:#x}")
        start = consumer % RING_SIZE
        first = min(available, RING_SIZE - start)
        self._input.feed(self._page[_REQ_OFFSET + start : _REQ_OFFSET + start + first])
        if first < available:
            self._input.feed(self._page[_REQ_OFFSET : _REQ_OFFSET + available - first])
        words[_REQ_CONS] = producer
        self._moved = True
        return True

    def _transmit(self) -> None:
        while self._partial or self._output:
            if not self._partial:
                self._partial = self._take_output() or b""
            sent = self._put(self._partial)
            self._partial = self._partial[sent:]
            if sent:
                self._looks_again = False
            else:
                self._wait_for_room()
                return

    def _wait_for_room(self) -> None:
        """The ring was full when we looked after our last word in it, so a guest that reads now finds it full and tells us. Only a ring
        that was found full counts: one that we have just filled up by what we knew of the guest's index need never have been full to it.

        Linux's xb_read has no barrier between its index and its look at ours: what it just read may still be on its way to us, and it may
        not tell. One more look when its processor has surely written it settles that."""
        if not self._looks_again:
            self._looks_again = True
            self.daemon.scheduler.call_later(SECOND_LOOK_S, self.turn)

    def _put(self, data: bytes) -> int:
        """Copy as much as fits into the response ring. -> bytes copied."""
        words = self._words
        memory_barrier()
        consumer, producer = words[_RSP_CONS], words[_RSP_PROD]
        used = (producer - consumer) & INDEX_MASK
        if used > RING_SIZE:
            raise RingIndexError(f"response ring has consumer {consumer:#x}, producer {producer:#x}")
        size = min(len(data), RING_SIZE - used)
        if not size:
            return 0
        start = producer % RING_SIZE
        first = min(size, RING_SIZE - start)
        page = self._page
        page[_RSP_OFFSET + start : _RSP_OFFSET + start + first] = data[:first]
        if first < size:
            page[_RSP_OFFSET : _RSP_OFFSET + size - first] = data[first:size]
        words[_RSP_PROD] = (producer + size) & INDEX_MASK
        self._moved = True
        return size

    def _serve(self) -> None:
        served_before = self.requests
        try:
            super()._serve()
        finally:
            for _ in range(self.requests - served_before):
                self._rate.spend()

    def _end_turn(self) -> None:
        if self._moved:
            self._moved = False
            self._notify()

    # -- endings -----------------------------------------------------------------------------------------------------
    def reset(self) -> None:
        """Drop everything that is open or under way."""
        super().reset()
        self._partial = b""
        self._looks_again = False

    def _ignore(self, error: int) -> None:
        """Stop talking to the guest, and say why in the page."""
        self.ignored = True
        self.reset()
        self._words[_ERROR] = error

    def violated(self, error: ProtocolViolationError) -> None:
        """Bad indexes or too long a payload: no longer served."""
        is_index = isinstance(error, RingIndexError)
        self._ignore(xs_wire.XENSTORE_ERROR_RINGIDX if is_index else xs_wire.XENSTORE_ERROR_PROTO)
        self._notify()

    def broken(self) -> None:
        """We failed to serve this guest: it is no longer served."""
        self._ignore(xs_wire.XENSTORE_ERROR_COMM)

    def close(self) -> None:
        """Give the page and the event channel back."""
        if self.closed:
            return
        self.closed = True
        self.reset()
        self._words.release()
        self._page.release()
        if self._link is not None:
            self._link.close()
            self._link = None


class RingIndexError(ProtocolViolationError):
    """The guest's indexes say that there is more in a ring than fits."""
