"""Round robin: who waits longest runs next, for at most one slice. No weights, no preemption at a wake-up. Xen has no such scheduler;
it is here for comparison, and as the smallest example of the interface."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyxen.hypervisor.scheduling.interface import IDLE, Decision, Processor, SchedulerContext, Unit

if TYPE_CHECKING:
    from pyxen.hypervisor.scheduling.cpu_pool import CpuPool

SLICE_NS = 10_000_000


class RoundRobin:
    """See the module's text."""

    name = "rr"

    def __init__(self, pool: CpuPool, context: SchedulerContext) -> None:
        self._queue: dict[Unit, None] = {}
        self._yielded: set[Unit] = set()

    def insert(self, unit: Unit) -> None:
        pass

    def remove(self, unit: Unit) -> None:
        self._yielded.discard(unit)

    def wake(self, unit: Unit, now_ns: int) -> bool:
        self._queue[unit] = None
        return True

    def sleep(self, unit: Unit, now_ns: int) -> None:
        self._queue.pop(unit, None)
        self._yielded.discard(unit)

    def pick(self, processor: Processor, now_ns: int) -> Decision:
        current = processor.current
        if current is not None and not self.gives_way(processor, now_ns):
            self._yielded.discard(current)
            return Decision(current, self.slice_ns(processor, now_ns))
        chosen = self._first(processor)
        if current is not None:
            self._yielded.discard(current)
            self._queue[current] = None
        if chosen is None:
            return IDLE
        del self._queue[chosen]
        return Decision(chosen, SLICE_NS if self._first(processor) is not None else None)

    def gives_way(self, processor: Processor, now_ns: int) -> bool:
        current = processor.current
        if current is None or processor.number not in current.allowed:
            return True
        over = current in self._yielded or now_ns - current.started_ns >= SLICE_NS
        return over and self._first(processor) is not None

    def _first(self, processor: Processor) -> Unit | None:
        return next((unit for unit in self._queue if processor.number in unit.allowed), None)

    def slice_ns(self, processor: Processor, now_ns: int) -> int | None:
        current = processor.current
        if current is None or self._first(processor) is None:
            return None
        return max(1, current.started_ns + SLICE_NS - now_ns)

    def rival(self, unit: Unit, now_ns: int) -> Processor | None:
        return None

    def yielded(self, unit: Unit, now_ns: int) -> None:
        self._yielded.add(unit)

    def processors_changed(self) -> None:
        pass

    def describe(self) -> Iterable[str]:
        yield "waiting: " + (" ".join(f"d{unit.vcpu.domain.domid}v{unit.vcpu.vcpu_id}" for unit in self._queue) or "none")
