"""``pyxen trace``: the hypervisor's hooks as a stream of decoded events."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from pyxen.host import trace_decoding
from pyxen.host.protocol import ErrorKind, HostError, Nothing, TraceEvent, TraceRequest
from pyxen.hypervisor.hooks import EventSent, Hooks, HypercallEvent, LifecycleEvent

#: Events that wait for one reader. A busy guest makes some 100,000 a second: the reader is told how many it missed.
_BACKLOG = 4096
_KINDS = ("hypercall", "event", "lifecycle")
_ENDED = "destroyed"


class TraceStreams:
    """Subscribes to the hooks while somebody reads, and only then."""

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

    async def follow(self, request: TraceRequest, send: Callable[[TraceEvent], Awaitable[None]]) -> Nothing:
        """Send events until the traced domain is destroyed."""
        unknown = sorted(set(request.kinds) - set(_KINDS))
        if unknown:
            raise HostError(f"unknown kind of event {unknown[0]!a}; it is one of {', '.join(_KINDS)}", ErrorKind.INVALID)
        backlog = _Backlog(request, asyncio.get_running_loop())
        with self._subscribed(backlog, set(request.kinds) or set(_KINDS)):
            while True:
                event = await backlog.next()
                await send(event)
                if event.kind == "lifecycle" and event.name == _ENDED and event.domid == request.domid:
                    return Nothing()

    @contextmanager
    def _subscribed(self, backlog: _Backlog, kinds: set[str]) -> Iterator[None]:
        with contextlib.ExitStack() as undo:
            if "hypercall" in kinds:
                undo.callback(self._hooks.subscribe_hypercall(after=backlog.hypercall))
            if "event" in kinds:
                undo.callback(self._hooks.subscribe_event_sent(backlog.event_sent))
            # Always: its end is what ends the stream.
            undo.callback(self._hooks.subscribe_lifecycle(lambda event: backlog.lifecycle(event, "lifecycle" in kinds)))
            yield


class _Backlog:
    """Events between the guests' threads, which must not wait, and one reader."""

    def __init__(self, request: TraceRequest, loop: asyncio.AbstractEventLoop) -> None:
        self._domid = request.domid
        self._names = frozenset(request.names)
        self._loop = loop
        self._events: deque[tuple[int, HypercallEvent | EventSent | LifecycleEvent]] = deque()
        self._dropped = 0
        self._ready = asyncio.Event()
        self._wake_is_due = False

    def hypercall(self, event: HypercallEvent) -> None:
        if self._domid in (None, event.domid) and (not self._names or event.name in self._names):
            self._put(event)

    def event_sent(self, event: EventSent) -> None:
        if self._domid is None or self._domid in (event.domid, event.source):
            self._put(event)

    def lifecycle(self, event: LifecycleEvent, wanted: bool) -> None:
        if self._domid in (None, event.domid) and (wanted or event.what == _ENDED):
            self._put(event, always=event.what == _ENDED)

    def _put(self, event: HypercallEvent | EventSent | LifecycleEvent, always: bool = False) -> None:
        """On the thread that caused it, with the hypervisor lock held."""
        if len(self._events) >= _BACKLOG and not always:
            self._dropped += 1
            return
        self._events.append((time.monotonic_ns(), event))
        if not self._wake_is_due:
            self._wake_is_due = True
            with contextlib.suppress(RuntimeError):  # the loop is closed: the host is going down
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._wake_is_due = False
        self._ready.set()

    async def next(self) -> TraceEvent:
        while not self._events:
            self._ready.clear()
            # Between the test and the clear() an event may have come, whose wake-up is still to run: it sets the flag again.
            await self._ready.wait()
        time_ns, event = self._events.popleft()
        dropped, self._dropped = self._dropped, 0
        return _decoded(time_ns, event, dropped)


def _decoded(time_ns: int, event: HypercallEvent | EventSent | LifecycleEvent, dropped: int) -> TraceEvent:
    if isinstance(event, HypercallEvent):
        return TraceEvent(
            kind="hypercall",
            time_ns=time_ns,
            domid=event.domid,
            vcpu=event.vcpu,
            name=event.name,
            arguments=trace_decoding.arguments(event.name, event.arguments),
            result=trace_decoding.signed_result(event.result),
            result_name=trace_decoding.result_name(event.result),
            dropped=dropped,
        )
    if isinstance(event, EventSent):
        arguments = {"port": event.port, "source": event.source}
        return TraceEvent("event", time_ns, event.domid, -1, "event", arguments, dropped=dropped)
    return TraceEvent("lifecycle", time_ns, event.domid, -1, event.what, {"detail": event.detail}, dropped=dropped)
