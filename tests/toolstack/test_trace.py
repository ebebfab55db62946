"""The trace stream: subscribed only while read, bounded, and ended by the domain's end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pyxen.host import trace_stream
from pyxen.host.protocol import HostError, TraceEvent, TraceRequest
from pyxen.host.trace_stream import TraceStreams
from pyxen.hypervisor.hooks import EventSent, Hooks, HypercallEvent, LifecycleEvent

pytestmark = pytest.mark.timeout(30)


def hypercall(domid: int, name: str = "sched_op", number: int = 29) -> HypercallEvent:
    return HypercallEvent(domid, 0, number, name, (1, 0), 0)


class Reader:
    """A stream that is read in the background."""

    def __init__(self, hooks: Hooks, request: TraceRequest) -> None:
        self.events: list[TraceEvent] = []
        self.may_read = asyncio.Event()
        self.may_read.set()
        self.task = asyncio.create_task(TraceStreams(hooks).follow(request, self._take))

    async def _take(self, event: TraceEvent) -> None:
        await self.may_read.wait()
        self.events.append(event)


def subscribers(hooks: Hooks) -> int:
    return len(hooks.before_hypercall) + len(hooks.after_hypercall) + len(hooks.event_sent) + len(hooks.lifecycle)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.001)


def run(scenario: object) -> None:
    assert callable(scenario)
    asyncio.run(asyncio.wait_for(scenario(Hooks(print, lambda watched: None)), 20))


def test_nobody_is_subscribed_when_nobody_reads() -> None:
    async def scenario(hooks: Hooks) -> None:
        reader = Reader(hooks, TraceRequest())
        await settle()
        assert subscribers(hooks) == 3
        reader.task.cancel()
        await settle()
        assert subscribers(hooks) == 0

    run(scenario)


def test_stream_ends_with_its_domain() -> None:
    async def scenario(hooks: Hooks) -> None:
        reader = Reader(hooks, TraceRequest(domid=3))
        await settle()
        for event in (hypercall(3), hypercall(4)):
            hooks.publish(hooks.after_hypercall, event)
        for domid in (4, 3):
            hooks.publish(hooks.lifecycle, LifecycleEvent(domid, "destroyed"))
        await asyncio.wait_for(reader.task, 5)
        assert [(event.domid, event.name) for event in reader.events] == [(3, "sched_op"), (3, "destroyed")]
        assert subscribers(hooks) == 0

    run(scenario)


def test_kinds_and_names_are_filters() -> None:
    async def scenario(hooks: Hooks) -> None:
        only_events = Reader(hooks, TraceRequest(kinds=["event"]))
        only_vcpu_op = Reader(hooks, TraceRequest(kinds=["hypercall"], names=["vcpu_op"]))
        await settle()
        for name in ("sched_op", "vcpu_op"):
            hooks.publish(hooks.after_hypercall, hypercall(1, name))
        hooks.publish(hooks.event_sent, EventSent(1, 5, None))
        await settle()
        assert [event.kind for event in only_events.events] == ["event"]
        assert [event.name for event in only_vcpu_op.events] == ["vcpu_op"]
        for reader in (only_events, only_vcpu_op):
            reader.task.cancel()
        with pytest.raises(HostError, match="'nonsense'"):
            await Reader(hooks, TraceRequest(kinds=["nonsense"])).task

    run(scenario)


def test_slow_reader_is_told_what_it_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_stream, "_BACKLOG", 100)

    async def scenario(hooks: Hooks) -> None:
        reader = Reader(hooks, TraceRequest(domid=1))
        reader.may_read.clear()
        await settle()

        def guest() -> None:
            for _ in range(1000):
                hooks.publish(hooks.after_hypercall, hypercall(1))
            hooks.publish(hooks.lifecycle, LifecycleEvent(1, "destroyed"))

        thread = threading.Thread(target=guest)
        thread.start()
        while thread.is_alive():
            await asyncio.sleep(0.001)
        reader.may_read.set()
        await asyncio.wait_for(reader.task, 5)
        assert len(reader.events) <= 103
        assert len(reader.events) + sum(event.dropped for event in reader.events) == 1001
        assert reader.events[-1].name == "destroyed"

    run(scenario)
