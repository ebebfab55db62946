"""A guest's side of the store's ring, a loop that runs when told, and a connector without a hypervisor."""

from __future__ import annotations

import errno
import heapq
import itertools
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pyxen.abi.io import xs_wire
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.guest_link import DomainState, GuestLink
from pyxen.xenstore.wire import HEADER

PAGE_SIZE = 4096
RING = xs_wire.XENSTORE_RING_SIZE
U32 = 1 << 32


class ManualLoop:
    """The store's view of an event loop. ``run`` runs all that is due, ``advance`` moves the clock."""

    def __init__(self) -> None:
        self.now = 100.0
        self.turns = 0
        self._soon: deque[Callable[[], object]] = deque()
        self._later: list[tuple[float, int, Callable[[], object]]] = []
        self._order = itertools.count()

    def call_soon(self, callback: Callable[[], object], /) -> None:
        self._soon.append(callback)

    def call_later(self, delay: float, callback: Callable[[], object], /) -> None:
        heapq.heappush(self._later, (self.now + delay, next(self._order), callback))

    def time(self) -> float:
        return self.now

    @property
    def timers(self) -> int:
        return len(self._later)

    def turn(self) -> None:
        """One turn of a loop: what was due when it began."""
        self.turns += 1
        for _ in range(len(self._soon)):
            self._soon.popleft()()

    def run(self, limit: int = 100_000) -> None:
        for _ in range(limit):
            if not self._soon:
                return
            self.turn()
        raise AssertionError("the store never comes to rest")

    def advance(self, seconds: float) -> None:
        self.now += seconds
        while self._later and self._later[0][0] <= self.now + 1e-9:
            self._soon.append(heapq.heappop(self._later)[2])
        self.run()


class Reply(NamedTuple):
    type: int
    request_id: int
    transaction_id: int
    payload: bytes

    @property
    def error(self) -> str:
        assert self.type == xs_wire.XS_ERROR, f"not an error: {self}"
        return self.payload.rstrip(b"\0").decode()

    @property
    def strings(self) -> list[str]:
        assert self.type != xs_wire.XS_ERROR, f"an error: {self}"
        return self.payload.decode().split("\0")[:-1]


class SimulatedGuest:
    """A guest driver, as simple as the ring allows. As a link, it is also what the store holds of it."""

    def __init__(self, loop: ManualLoop, domid: int) -> None:
        self.loop = loop
        self.domid = domid
        self.memory = bytearray(PAGE_SIZE)
        self.page = memoryview(self.memory)
        self.interface = xs_wire.xenstore_domain_interface.from_buffer(self.memory)
        self.on_event: Callable[[], None] = lambda: None
        self.notifications = 0
        self.closed = False
        self.broken_port = False
        self.inbox = bytearray()
        self.events: list[tuple[str, str]] = []
        self._request_ids = itertools.count(1)

    # -- what the store uses ---------------------------------------------------------------------------------------
    def notify(self) -> None:
        if self.broken_port:
            raise StoreError(errno.EINVAL, "no such port")
        self.notifications += 1

    def close(self) -> None:
        self.closed = True

    # -- the ring ----------------------------------------------------------------------------------------------------
    def put(self, data: bytes) -> int:
        """Put as much as fits into the request ring, without an event."""
        interface = self.interface
        room = RING - (interface.req_prod - interface.req_cons) % U32
        chunk = data[:room]
        for byte in chunk:
            interface.req[interface.req_prod % RING] = byte
            interface.req_prod += 1
        return len(chunk)

    def kick(self) -> None:
        self.on_event()
        self.loop.run()

    def send(self, data: bytes) -> None:
        """Send all, taking replies out meanwhile as a driver's thread does."""
        while data:
            sent = self.put(data)
            self.kick()
            data = data[sent:]
            if not sent:
                before = len(self.inbox)
                self.take()
                assert len(self.inbox) > before, "the store neither takes requests nor sends anything"

    def take(self) -> None:
        """Take everything out of the response ring."""
        interface = self.interface
        while interface.rsp_cons != interface.rsp_prod:
            while interface.rsp_cons != interface.rsp_prod:
                self.inbox.append(interface.rsp[interface.rsp_cons % RING])
                interface.rsp_cons += 1
            self.kick()

    def post(self, message_type: int, payload: bytes = b"", transaction: int = 0) -> int:
        request_id = next(self._request_ids)
        self.send(HEADER.pack(message_type, request_id, transaction, len(payload)) + payload)
        return request_id

    def receive(self) -> list[Reply]:
        """All messages that are there; watch events go to ``events``."""
        self.take()
        replies = []
        while len(self.inbox) >= HEADER.size:
            *head, length = HEADER.unpack_from(self.inbox)
            if len(self.inbox) < HEADER.size + length:
                break
            reply = Reply(*head, bytes(self.inbox[HEADER.size : HEADER.size + length]))
            del self.inbox[: HEADER.size + length]
            if reply.type == xs_wire.XS_WATCH_EVENT:
                assert reply.request_id == reply.transaction_id == 0
                path, token = reply.strings
                self.events.append((path, token))
            else:
                replies.append(reply)
        return replies

    def request(self, message_type: int, *strings: str, payload: bytes | None = None, transaction: int = 0) -> Reply:
        if payload is None:
            payload = "".join(f"{text}\0" for text in strings).encode()
        request_id = self.post(message_type, payload, transaction)
        replies = self.receive()
        assert len(replies) == 1, replies
        reply = replies[0]
        assert reply.request_id == request_id
        assert reply.transaction_id == transaction
        assert reply.type in (message_type, xs_wire.XS_ERROR)
        return reply

    # -- requests ----------------------------------------------------------------------------------------------------
    def read(self, path: str, transaction: int = 0) -> str:
        reply = self.request(xs_wire.XS_READ, path, transaction=transaction)
        return reply.error if reply.type == xs_wire.XS_ERROR else reply.payload.decode()

    def write(self, path: str, value: str | bytes, transaction: int = 0) -> str:
        data = value if isinstance(value, bytes) else value.encode()
        return self._done(self.request(xs_wire.XS_WRITE, payload=path.encode() + b"\0" + data, transaction=transaction))

    def do(self, message_type: int, *strings: str, transaction: int = 0) -> str:
        """A request whose answer is OK or an error."""
        return self._done(self.request(message_type, *strings, transaction=transaction))

    @staticmethod
    def _done(reply: Reply) -> str:
        return reply.payload.rstrip(b"\0").decode()

    def start(self) -> int:
        return int(self.request(xs_wire.XS_TRANSACTION_START, payload=b"\0").strings[0])

    def end(self, transaction: int, *, commit: bool = True) -> str:
        return self.do(xs_wire.XS_TRANSACTION_END, "T" if commit else "F", transaction=transaction)

    def new_events(self) -> list[tuple[str, str]]:
        assert self.receive() == []
        events, self.events = self.events, []
        return events


class SimulatedConnector:
    """Knows which domains there are and connects their simulated guests."""

    def __init__(self, loop: ManualLoop) -> None:
        self.loop = loop
        self.guests: dict[int, SimulatedGuest] = {}
        self.states: dict[int, DomainState] = {}
        self.connected: list[tuple[int, int, int]] = []

    def connect(self, domid: int, gfn: int, port: int, on_event: Callable[[], None]) -> GuestLink:
        if self.domain_state(domid) is DomainState.GONE:
            raise StoreError(errno.ESRCH, f"no domain {domid}")
        self.connected.append((domid, gfn, port))
        guest = self.guests.setdefault(domid, SimulatedGuest(self.loop, domid))
        guest.on_event = on_event
        return guest

    def domain_state(self, domid: int) -> DomainState:
        return self.states.get(domid, DomainState.GONE)


class World:
    """A store with guests. ``guest(5)`` is domain 5, created and introduced on first use."""

    def __init__(self) -> None:
        self.loop = ManualLoop()
        self.connector = SimulatedConnector(self.loop)
        self.daemon = Daemon(self.loop, self.connector)

    def guest(self, domid: int) -> SimulatedGuest:
        if not self.daemon.is_introduced(domid):
            self.connector.states[domid] = DomainState.ALIVE
            self.daemon.introduce(domid, 1000 + domid, 1)
            self.loop.run()
        return self.connector.guests[domid]
