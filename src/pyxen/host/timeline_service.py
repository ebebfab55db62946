"""How long starting took: the timelines of domains and of the host process, as the protocol carries them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pyxen.host import protocol as p
from pyxen.host.control_server import MethodTable
from pyxen.toolstack.domain_record import DomainRecord, LifeState
from pyxen.toolstack.lifecycle import Toolstack
from pyxen.toolstack.timeline import StageReached

#: How often a domain is looked at for what nobody tells of, while somebody waits for it, in seconds.
_LOOK_INTERVAL = 0.1


class TimelineService:
    """Belongs to the event loop's thread. ``host_stages`` are the host process's own."""

    def __init__(self, toolstack: Toolstack, host_stages: list[StageReached]) -> None:
        self._toolstack = toolstack
        self._host_stages = host_stages

    def register(self, table: MethodTable) -> None:
        """Enter the methods into the table."""
        table.call(p.HOST_TIMELINE, self._host)
        table.stream(p.DOMAIN_TIMELINE, self._follow)

    async def _host(self, _: p.Nothing) -> p.StageTimes:
        return p.StageTimes([p.StageTime(reached.stage, reached.time) for reached in self._host_stages])

    async def _follow(self, request: p.DomainId, send: Callable[[p.StageTime], Awaitable[None]]) -> p.Nothing:
        record = self._toolstack.registry.get(request.domid)
        if record.observer is not None:
            record.observer.refresh()
        loop = asyncio.get_running_loop()
        stages: asyncio.Queue[StageReached | None] = asyncio.Queue()

        def heard(reached: StageReached) -> None:
            loop.call_soon_threadsafe(stages.put_nowait, reached)

        unfollow = record.timeline.follow(heard)
        end = asyncio.create_task(self._await_end(record, stages))
        try:
            while (reached := await self._next(record, stages)) is not None:
                more = not stages.empty()
                await send(p.StageTime(reached.stage, reached.time, more, record.timeline.complete and not more))
            return p.Nothing()
        finally:
            unfollow()
            end.cancel()

    async def _next(self, record: DomainRecord, stages: asyncio.Queue[StageReached | None]) -> StageReached | None:
        while True:
            try:
                return await asyncio.wait_for(stages.get(), _LOOK_INTERVAL)
            except TimeoutError:
                if record.observer is not None:
                    record.observer.refresh()

    async def _await_end(self, record: DomainRecord, stages: asyncio.Queue[StageReached | None]) -> None:
        async for reached in self._toolstack.states(record.domid):
            if reached.state is LifeState.DESTROYED:
                break
        stages.put_nowait(None)
