"""The dispatcher: gives processors to vCPUs as the pools' schedulers decide, and takes them back.

A vCPU's host thread may enter the guest only while ``Vcpu.may_enter`` is true: that is the only thing it looks at between two exits, so a
machine with as many processors as runnable vCPUs pays nothing for scheduling but when a vCPU falls asleep or wakes. To be preempted, a
vCPU is kicked out of the guest, and its own thread hands the processor on.

A processor is a right, not a host CPU: the host's kernel places the threads. Only a vCPU that may not use all processors (hard affinity, a
pool) has its thread bound, by sched_setaffinity, to the host CPUs that these stand for. Lock held in all methods.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.scheduling.cpu_pool import DEFAULT_SCHEDULER, CpuPool
from pyxen.hypervisor.scheduling.interface import Processor, Unit
from pyxen.hypervisor.timers import Timer, TimerQueue

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

#: As many as a pool's affinity masks are meant for; more than the host has only makes sense in tests.
MAX_PROCESSORS = 64


class Dispatcher:
    """All processors, pools and units. ``processors``: how many the machine shows; None: as many as the host lets this process use."""

    def __init__(self, now: Callable[[], int], timers: TimerQueue, processors: int | None) -> None:
        self.now = now
        self._timers = timers
        host_cpus = sorted(os.sched_getaffinity(0))
        count = len(host_cpus) if processors is None else processors
        self._host_cpus = host_cpus
        self.processors = [Processor(number) for number in range(min(count, MAX_PROCESSORS))]
        self.pools: dict[int, CpuPool] = {0: CpuPool(0, DEFAULT_SCHEDULER, self)}
        self._soft_units = 0
        for processor in self.processors:
            self.add_processor(self.pools[0], processor.number)

    def at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """A timer for a scheduler."""
        return self._timers.add(deadline_ns, callback)

    # -- units -----------------------------------------------------------------------------------------------------------
    def insert(self, vcpu: Vcpu, pool: CpuPool) -> Unit:
        """A new vCPU, which does not run yet."""
        unit = Unit(vcpu, pool)
        self._enter(unit, pool)
        return unit

    def _enter(self, unit: Unit, pool: CpuPool) -> None:
        unit.pool = pool
        pool.limit(unit)
        pool.units.add(unit)
        pool.scheduler.insert(unit)

    def _leave(self, unit: Unit) -> None:
        pool = unit.pool
        self._put_to_sleep(unit)
        pool.units.discard(unit)
        pool.scheduler.remove(unit)

    def remove(self, unit: Unit) -> None:
        """The vCPU's end. No effect on one that is gone."""
        if unit in unit.pool.units:
            self._leave(unit)
            self._count_soft_units()

    # -- falling asleep and waking ---------------------------------------------------------------------------------------
    def settle(self, vcpu: Vcpu) -> None:
        """Something changed that makes the vCPU runnable, or not. One that is in the guest is kicked, and lets go of its
        processor itself."""
        unit = vcpu.unit
        if vcpu.runnable and vcpu.thread is not None:
            if unit.processor is None and not unit.waiting:
                self._wake(unit)
        elif vcpu.in_guest:
            vcpu.may_enter = False
            vcpu.cpu.kick()
        else:
            self._put_to_sleep(unit)
        if vcpu.domain.dying:
            vcpu.wakeup.notify()
        vcpu.update_runstate()

    def _put_to_sleep(self, unit: Unit) -> None:
        processor = unit.processor
        if unit.waiting:
            unit.waiting = False
            unit.pool.scheduler.sleep(unit, self.now())
        elif processor is not None:
            now = self.now()
            self._take(processor, now)
            unit.pool.scheduler.sleep(unit, now)
            unit.vcpu.update_runstate(now)
            self._fill(processor, now)

    def _wake(self, unit: Unit) -> None:
        now = self.now()
        unit.waiting = True
        if unit.pool.scheduler.wake(unit, now):
            self.offer(unit, now)

    def offer(self, unit: Unit, now_ns: int) -> None:
        """A waiting unit: a free processor, or somebody else's, or the promise of one in time."""
        processors = unit.pool.processors
        for number in self._places(unit):
            processor = processors[number]
            if processor.current is None:
                self._fill(processor, now_ns)
                if not unit.waiting:
                    return
        rival = unit.pool.scheduler.rival(unit, now_ns)
        if rival is not None and rival.current is not None:
            self._preempt(rival)
            return
        for number in unit.allowed:
            self.shorten(processors[number], now_ns)

    def shorten(self, processor: Processor, now_ns: int) -> None:
        """More units wait for the processor, or its current one has other parameters: its slice may end sooner."""
        if processor.current is not None and processor.pool is not None:
            slice_ns = processor.pool.scheduler.slice_ns(processor, now_ns)
            if slice_ns is not None and (processor.timer is None or now_ns + slice_ns < processor.timer.deadline_ns):
                self._arm(processor, slice_ns, now_ns)

    def _places(self, unit: Unit) -> Iterator[int]:
        """Where it may run, best first: the processor that it had last, then those that it prefers."""
        last = unit.last
        if last in unit.preferred:
            yield last
        yield from unit.preferred
        if unit.preferred is not unit.allowed:
            yield from unit.allowed

    # -- processors ------------------------------------------------------------------------------------------------------
    def _fill(self, processor: Processor, now_ns: int) -> None:
        """The processor is free: the next one's turn."""
        if processor.pool is None:
            return
        decision = processor.pool.scheduler.pick(processor, now_ns)
        if decision.unit is not None:
            self._give(processor, decision.unit, now_ns)
            self._arm(processor, decision.slice_ns, now_ns)
        elif self._soft_units:
            self._attract(processor)

    def _give(self, processor: Processor, unit: Unit, now_ns: int) -> None:
        processor.current = unit
        unit.processor = processor
        unit.waiting = False
        unit.started_ns = now_ns
        unit.last = processor.number
        unit.vcpu.may_enter = True
        unit.vcpu.update_runstate(now_ns)
        unit.vcpu.wakeup.notify()

    def _take(self, processor: Processor, now_ns: int) -> None:
        unit = processor.current
        assert unit is not None
        processor.current = None
        unit.processor = None
        unit.vcpu.may_enter = False
        self._arm(processor, None, now_ns)

    def _arm(self, processor: Processor, slice_ns: int | None, now_ns: int) -> None:
        if processor.timer is not None:
            processor.timer.cancel()
            processor.timer = None
        if slice_ns is not None:
            processor.timer = self._timers.add(now_ns + slice_ns, lambda: self._slice_ended(processor))

    def _slice_ended(self, processor: Processor) -> None:
        processor.timer = None
        if processor.current is None or processor.pool is None or not processor.current.vcpu.may_enter:
            return
        now = self.now()
        if processor.pool.scheduler.gives_way(processor, now):
            self._preempt(processor)
        else:
            self._arm(processor, processor.pool.scheduler.pick(processor, now).slice_ns, now)

    def _preempt(self, processor: Processor) -> None:
        """Have the current unit's own thread ask who is next (``await_turn``)."""
        unit = processor.current
        if unit is not None and unit.vcpu.may_enter:
            unit.vcpu.may_enter = False
            if unit.vcpu.in_guest:
                unit.vcpu.cpu.kick()
            else:
                unit.vcpu.wakeup.notify()  # it may not even have begun

    def _attract(self, processor: Processor) -> None:
        """A processor without work: bring one back whose soft affinity wants it here."""
        assert processor.pool is not None
        for other in processor.pool.processors.values():
            unit = other.current
            if unit is not None and other.number not in unit.preferred and processor.number in unit.preferred:
                self._preempt(other)
                return

    def _is_displaced(self, unit: Unit) -> bool:
        """Whether it runs where its soft affinity does not want it though a processor that it prefers is free."""
        return (
            unit.processor is not None
            and unit.processor.number not in unit.preferred
            and any(unit.pool.processors[number].current is None for number in unit.preferred)
        )

    # -- the vCPU's own thread -------------------------------------------------------------------------------------------
    def await_turn(self, vcpu: Vcpu) -> None:
        """Returns when the vCPU may enter its guest, or its domain is dying."""
        unit = vcpu.unit
        while not vcpu.may_enter:
            if unit.processor is not None:
                if vcpu.runnable:
                    self._ask(unit.processor, unit)
                else:
                    self._put_to_sleep(unit)
                    vcpu.update_runstate()
            elif vcpu.domain.dying:
                return
            else:
                vcpu.wakeup.wait()

    def _ask(self, processor: Processor, unit: Unit) -> None:
        """Who should have the processor: still the same, or another?"""
        now, scheduler = self.now(), unit.pool.scheduler
        if self._soft_units and self._is_displaced(unit):
            self._take(processor, now)
            scheduler.sleep(unit, now)
            self._wake(unit)
            if processor.current is None:
                self._fill(processor, now)
            return
        decision = scheduler.pick(processor, now)
        if decision.unit is unit:
            unit.vcpu.may_enter = True
            self._arm(processor, decision.slice_ns, now)
            return
        self._take(processor, now)
        unit.waiting = True
        unit.vcpu.update_runstate(now)
        if decision.unit is not None:
            self._give(processor, decision.unit, now)
            self._arm(processor, decision.slice_ns, now)
        self.offer(unit, now)

    def give_way(self, vcpu: Vcpu) -> None:
        """SCHEDOP_yield."""
        unit = vcpu.unit
        if unit.processor is not None and unit.processor.timer is not None:  # without a timer nobody waits for it
            unit.pool.scheduler.yielded(unit, self.now())
            vcpu.may_enter = False

    # -- affinity and pools ----------------------------------------------------------------------------------------------
    def set_affinity(self, unit: Unit, hard: frozenset[int] | None, soft: frozenset[int] | None) -> None:
        """Takes effect at once. EINVAL for a hard affinity with no processor of the unit's pool."""
        for wanted in (hard, soft):
            if wanted is not None and not wanted & frozenset(range(len(self.processors))):
                raise HypercallError(errno.EINVAL, f"no CPU of {sorted(wanted)} is there")
        if hard is not None and not hard & frozenset(unit.pool.processors):
            raise HypercallError(errno.EINVAL, f"no CPU of {sorted(hard)} is in CPU pool {unit.pool.number}")
        unit.hard, unit.soft = hard, soft
        self._limits_changed(unit.pool)

    def _count_soft_units(self) -> None:
        self._soft_units = sum(unit.preferred != unit.allowed for pool in self.pools.values() for unit in pool.units)

    def _limits_changed(self, pool: CpuPool) -> None:
        """Affinities, or the pool's processors, are others than before: who runs where it may not moves, who waits may find a place."""
        for unit in pool.units:
            pool.limit(unit)
            self.place_thread(unit.vcpu)
        self._count_soft_units()
        pool.scheduler.processors_changed()
        now = self.now()
        for unit in tuple(pool.units):
            processor = unit.processor
            if processor is not None and (processor.number not in unit.allowed or self._is_displaced(unit)):
                self._preempt(processor)
            elif unit.waiting:
                self.offer(unit, now)

    def place_thread(self, vcpu: Vcpu) -> None:
        """Bind the vCPU's host thread to the host CPUs that its processors stand for, or to none in particular."""
        thread = vcpu.thread
        if thread is None or thread.native_id is None:
            return
        allowed = vcpu.unit.allowed
        everywhere = len(allowed) == len(self.processors)
        cpus = self._host_cpus if everywhere else {self._host_cpus[number % len(self._host_cpus)] for number in allowed}
        with contextlib.suppress(OSError):  # the thread has just ended, or the host took the CPU away from us
            os.sched_setaffinity(thread.native_id, cpus)

    def pool(self, number: int) -> CpuPool:
        """ENOENT when there is none."""
        pool = self.pools.get(number)
        if pool is None:
            raise HypercallError(errno.ENOENT, f"there is no CPU pool {number}")
        return pool

    def create_pool(self, scheduler: str) -> CpuPool:
        """XEN_SYSCTL_CPUPOOL_OP_CREATE: without processors and domains. EINVAL for an unknown scheduler."""
        number = next(number for number in range(len(self.pools) + 1) if number not in self.pools)
        pool = self.pools[number] = CpuPool(number, scheduler, self)
        return pool

    def destroy_pool(self, number: int) -> None:
        """XEN_SYSCTL_CPUPOOL_OP_DESTROY: it must have no domains and no processors. ENOENT, EBUSY; pool 0 stays: EPERM."""
        pool = self.pool(number)
        if number == 0:
            raise HypercallError(errno.EPERM, "CPU pool 0 can't be destroyed")
        if pool.processors or pool.units:
            raise HypercallError(errno.EBUSY, f"CPU pool {number} still has CPUs or domains")
        del self.pools[number]

    def add_processor(self, pool: CpuPool, number: int) -> None:
        """XEN_SYSCTL_CPUPOOL_OP_ADDCPU. EINVAL for one that is not there, EBUSY for one that is in a pool."""
        processor = self._processor(number)
        if processor.pool is not None:
            raise HypercallError(errno.EBUSY, f"CPU {number} is in CPU pool {processor.pool.number}")
        processor.pool = pool
        pool.processors[number] = processor
        self._limits_changed(pool)

    def remove_processor(self, pool: CpuPool, number: int) -> None:
        """XEN_SYSCTL_CPUPOOL_OP_RMCPU. EINVAL for one that is not of this pool, EBUSY for the last one of a pool with domains, or of
        pool 0, which always has Domain 0."""
        processor = self._processor(number)
        if processor.pool is not pool:
            raise HypercallError(errno.EINVAL, f"CPU {number} is not in CPU pool {pool.number}")
        if len(pool.processors) == 1 and (pool.units or pool.number == 0):
            raise HypercallError(errno.EBUSY, f"CPU {number} is the last of CPU pool {pool.number}, which has domains")
        unit = processor.current
        if unit is not None:
            unit.vcpu.hypervisor.stop_briefly(unit.vcpu, None)
            self._take(processor, self.now())
            pool.scheduler.sleep(unit, self.now())
        processor.pool = None
        del pool.processors[number]
        self._limits_changed(pool)
        if unit is not None:
            self.settle(unit.vcpu)

    def free_processors(self) -> list[int]:
        """Those in no pool."""
        return [processor.number for processor in self.processors if processor.pool is None]

    def _processor(self, number: int) -> Processor:
        if not 0 <= number < len(self.processors):
            raise HypercallError(errno.EINVAL, f"there is no CPU {number}: the machine has 0 to {len(self.processors) - 1}")
        return self.processors[number]

    def move_domain(self, domain: Domain, pool: CpuPool) -> None:
        """XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: weights and affinities are those of a new domain there. EBUSY when it has no processors."""
        if not pool.processors:
            raise HypercallError(errno.EBUSY, f"CPU pool {pool.number} has no CPUs")
        if domain.cpupool is pool:
            return
        for vcpu in domain.vcpus:
            vcpu.hypervisor.stop_briefly(vcpu, None)
        for vcpu in domain.vcpus:
            self._leave(vcpu.unit)
        domain.cpupool = pool
        for vcpu in domain.vcpus:
            vcpu.unit.hard = vcpu.unit.soft = None
            vcpu.unit.last = -1
            self._enter(vcpu.unit, pool)
            self.place_thread(vcpu)
            self.settle(vcpu)
        self._count_soft_units()
