"""CPU pools: each has some of the machine's processors, a scheduler of its own, and the domains that run there (XEN_SYSCTL_cpupool_op)."""

from __future__ import annotations

import errno
from collections.abc import Callable

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.scheduling.credit2 import Credit2
from pyxen.hypervisor.scheduling.interface import Processor, Scheduler, SchedulerContext, Unit
from pyxen.hypervisor.scheduling.null import Null
from pyxen.hypervisor.scheduling.round_robin import RoundRobin

SCHEDULERS: dict[str, Callable[[CpuPool, SchedulerContext], Scheduler]] = {
    Credit2.name: Credit2,
    Null.name: Null,
    RoundRobin.name: RoundRobin,
}
DEFAULT_SCHEDULER = Credit2.name


class CpuPool:
    """One pool. Lock held."""

    def __init__(self, number: int, scheduler: str, context: SchedulerContext) -> None:
        if scheduler not in SCHEDULERS:
            raise HypercallError(errno.EINVAL, f'there is no scheduler "{scheduler}"; there are {", ".join(SCHEDULERS)}')
        self.number = number
        self.processors: dict[int, Processor] = {}
        self.units: set[Unit] = set()
        self.scheduler: Scheduler = SCHEDULERS[scheduler](self, context)

    def limit(self, unit: Unit) -> None:
        """Work out where the unit may run. A hard affinity with none of the pool's processors counts as none (Xen's
        affinity_set of a domain that moves)."""
        mine = frozenset(self.processors)
        unit.allowed = mine if unit.hard is None else unit.hard & mine or mine
        unit.preferred = unit.allowed if unit.soft is None else unit.soft & unit.allowed or unit.allowed
