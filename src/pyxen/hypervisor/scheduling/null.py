"""The null scheduler: every vCPU has a processor of its own for as long as it lives, and there is nothing to decide.

A vCPU for which none was left waits until another's processor becomes free (Xen's common/sched/null.c).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pyxen.hypervisor.scheduling.interface import IDLE, Decision, Processor, SchedulerContext, Unit

if TYPE_CHECKING:
    from pyxen.hypervisor.scheduling.cpu_pool import CpuPool


class Null:
    """See the module's text."""

    name = "null"

    def __init__(self, pool: CpuPool, context: SchedulerContext) -> None:
        self._pool = pool
        self._context = context
        self._units: list[Unit] = []
        self._owners: dict[int, Unit] = {}  # of processors, by number
        self._waiting: set[Unit] = set()

    def insert(self, unit: Unit) -> None:
        self._units.append(unit)
        self._assign(unit)

    def remove(self, unit: Unit) -> None:
        self._units.remove(unit)
        self._release(unit)
        self._assign_others()

    def _number(self, unit: Unit) -> int | None:
        return next((number for number, owner in self._owners.items() if owner is unit), None)

    def _assign(self, unit: Unit) -> bool:
        """Give it a processor: one that it prefers if such a one is free. -> whether it has one."""
        if self._number(unit) is None:
            free = [number for number in sorted(unit.allowed, key=lambda one: one not in unit.preferred) if number not in self._owners]
            if not free:
                return False
            self._owners[free[0]] = unit
        return True

    def _release(self, unit: Unit) -> None:
        number = self._number(unit)
        if number is not None:
            del self._owners[number]

    def _assign_others(self) -> None:
        for unit in self._units:
            if self._assign(unit) and unit in self._waiting:
                self._context.offer(unit, self._context.now())

    def processors_changed(self) -> None:
        for number, unit in list(self._owners.items()):
            if number not in unit.allowed:
                del self._owners[number]
        self._assign_others()

    def wake(self, unit: Unit, now_ns: int) -> bool:
        self._waiting.add(unit)
        return self._number(unit) is not None

    def sleep(self, unit: Unit, now_ns: int) -> None:
        self._waiting.discard(unit)

    def pick(self, processor: Processor, now_ns: int) -> Decision:
        current, owner = processor.current, self._owners.get(processor.number)
        if current is not None:
            if current is owner:
                return Decision(current)
            self._waiting.add(current)
        if owner in self._waiting:
            self._waiting.remove(owner)
            return Decision(owner)
        return IDLE

    def gives_way(self, processor: Processor, now_ns: int) -> bool:
        return processor.current is not self._owners.get(processor.number)

    def slice_ns(self, processor: Processor, now_ns: int) -> int | None:
        return None

    def rival(self, unit: Unit, now_ns: int) -> Processor | None:
        number = self._number(unit)
        return None if number is None else self._pool.processors[number]

    def yielded(self, unit: Unit, now_ns: int) -> None:
        pass

    def describe(self) -> Iterable[str]:
        for number, unit in sorted(self._owners.items()):
            yield f"CPU {number}: d{unit.vcpu.domain.domid}v{unit.vcpu.vcpu_id}"
        for unit in self._units:
            if self._number(unit) is None:
                yield f"d{unit.vcpu.domain.domid}v{unit.vcpu.vcpu_id}: no CPU is left for it"
