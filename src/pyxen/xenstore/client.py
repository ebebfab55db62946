"""A client of the store, and one that speaks the wire protocol: what it has open, and the queues of what it said and is told."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from pyxen.xenstore.errors import ProtocolViolationError
from pyxen.xenstore.paths import domain_path
from pyxen.xenstore.quotas import passes
from pyxen.xenstore.transactions import Transaction
from pyxen.xenstore.tree import Tree
from pyxen.xenstore.wire import Reassembler, pack_event

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Daemon

log = logging.getLogger("pyxen.xenstore")

#: Requests of one client served before the loop gets its turn.
REQUESTS_PER_TURN = 32

MAX_TRANSACTION_ID = 0xFFFFFFFF


class Scheduler(Protocol):
    """What the store needs of an event loop: the part of ``asyncio.AbstractEventLoop`` of the same names."""

    def call_soon(self, callback: Callable[[], object], /) -> object:
        """Run the callback in the loop's next turn."""

    def call_later(self, delay: float, callback: Callable[[], object], /) -> object:
        """Run the callback in ``delay`` seconds."""

    def time(self) -> float:
        """A clock in seconds that only goes forward."""


class Client(ABC):
    """Somebody who uses the store: his rights, open transactions, and (in the registry) watches."""

    def __init__(self, domid: int, *, privileged: bool) -> None:
        self.domid = domid
        self.privileged = privileged
        self.target: int | None = None  #: the domain that it acts for, by XS_SET_TARGET
        self.base = domain_path(domid)
        self.transactions: dict[int, Transaction] = {}
        self._last_transaction = 0

    def start_transaction(self, live: Tree) -> Transaction:
        """Open a transaction under a number that is not in use."""
        number = self._last_transaction
        while True:
            number = number % MAX_TRANSACTION_ID + 1
            if number not in self.transactions:
                break
        self._last_transaction = number
        transaction = self.transactions[number] = Transaction(number, live)
        return transaction

    @abstractmethod
    def watch_event(self, path: str, token: bytes) -> None:
        """Take a watch event."""


class Connection(Client):
    """A client that speaks the wire protocol. Everything runs in the loop's thread.

    Requests are served in turns of at most REQUESTS_PER_TURN. An exception that no request may cause ends this connection only.
    """

    def __init__(self, daemon: Daemon, domid: int, *, privileged: bool, name: str) -> None:
        super().__init__(domid, privileged=privileged)
        self.daemon = daemon
        self.name = name  #: for the log
        self.closed = False
        self.requests = 0  #: requests served so far
        self.first_request_at: float | None = None  #: of the scheduler's clock
        self.dropped_events = 0
        self._input = Reassembler()
        self._output: deque[tuple[bytes, bool]] = deque()  #: messages and whether each is an event
        self._queued_events: set[bytes] = set()
        self._queued_bytes = 0
        self._queued_replies = 0
        self._turn_scheduled = False

    @property
    def outstanding(self) -> int:
        """Replies that the client has not taken yet."""
        return self._queued_replies

    @property
    def memory(self) -> int:
        """Bytes that wait here."""
        return self._queued_bytes + len(self._input)

    # -- output ----------------------------------------------------------------------------------------------------
    def reply(self, message: bytes) -> None:
        """Queue a reply."""
        self._output.append((message, False))
        self._queued_bytes += len(message)
        self._queued_replies += 1

    def watch_event(self, path: str, token: bytes) -> None:
        """Queue an event, unless the same is waiting already or the client has let too much pile up."""
        message = pack_event(path, token)
        if message is None or self.closed or (message in self._queued_events and not path.startswith("@")):
            return
        if not self.privileged and not passes(self.daemon.memory_of(self) + len(message), self.daemon.quotas.memory):
            if not self.dropped_events:
                log.warning("%s: too much is queued, dropping watch events", self.name)
            self.dropped_events += 1
            return
        self._output.append((message, True))
        self._queued_events.add(message)
        self._queued_bytes += len(message)
        self.schedule_turn()

    def _take_output(self) -> bytes | None:
        """Remove the next message from the queue."""
        if not self._output:
            return None
        message, is_event = self._output.popleft()
        self._queued_bytes -= len(message)
        if is_event:
            self._queued_events.discard(message)
        else:
            self._queued_replies -= 1
        return message

    def reset(self) -> None:
        """Drop everything that is open or under way: watches, transactions, queues."""
        self.daemon.watches.remove_all(self)
        self.transactions.clear()
        self._input.clear()
        self._output.clear()
        self._queued_events.clear()
        self._queued_bytes = 0
        self._queued_replies = 0

    # -- turns -------------------------------------------------------------------------------------------------------
    def schedule_turn(self) -> None:
        """Have ``turn`` called soon, once."""
        if not self._turn_scheduled and not self.closed:
            self._turn_scheduled = True
            self.daemon.scheduler.call_soon(self._scheduled_turn)

    def _scheduled_turn(self) -> None:
        self._turn_scheduled = False
        self.turn()

    def turn(self) -> None:
        """Serve what has come in and send what waits, as far as possible and fair now."""
        if self.closed:
            return
        try:
            self._serve()
        except ProtocolViolationError as error:
            log.warning("%s: %s: connection closed", self.name, error)
            self.violated(error)
        except Exception:
            log.exception("%s: connection closed because of an internal error", self.name)
            self.broken()

    def _serve(self) -> None:
        self._transmit()
        served = 0
        while served < REQUESTS_PER_TURN and self._may_serve():
            message = self._input.next()
            if message is None:
                if not self._receive():
                    break
                continue
            served += 1
            if not self.requests:
                self.first_request_at = self.daemon.scheduler.time()
            self.requests += 1
            self.daemon.handle(self, message)
            if self.closed:
                return
            self._transmit()
        if served == REQUESTS_PER_TURN:
            self.schedule_turn()
        self._end_turn()

    def _may_serve(self) -> bool:
        """Whether the next request may be served now."""
        return True

    @abstractmethod
    def _receive(self) -> bool:
        """Fetch more input if there is any. -> whether there was."""

    @abstractmethod
    def _transmit(self) -> None:
        """Send as much of the output as the other side can take."""

    def _end_turn(self) -> None:
        """Whatever is done once after several messages."""

    def violated(self, error: ProtocolViolationError) -> None:
        """The peer broke the protocol."""
        self.close()

    def broken(self) -> None:
        """Serving this peer failed in a way that is no fault of the protocol."""
        self.close()

    @abstractmethod
    def close(self) -> None:
        """End the connection; nothing of it is left."""
