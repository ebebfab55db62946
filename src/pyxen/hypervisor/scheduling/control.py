"""Domain 0's hypercalls for schedulers and CPU pools (``dom0_interface.SchedulingHypercalls``)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.hypervisor.dom0_interface import CpuPoolInfo, HypercallError, SchedulerParameters
from pyxen.hypervisor.scheduling.cpu_pool import CpuPool
from pyxen.hypervisor.scheduling.credit2 import LARGEST_RATELIMIT_US, SMALLEST_RATELIMIT_US, Credit2

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hypervisor import Hypervisor

LARGEST_WEIGHT = 65535


class SchedulingControl:
    """Every method takes the hypervisor lock itself."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._lock = hypervisor.lock

    def _guest(self, domid: int) -> Domain:
        domain = self._hypervisor.domain(domid)
        if not domid:
            raise HypercallError(errno.EINVAL, "Domain 0 is scheduled by the host, not by pyxen")
        return domain

    @staticmethod
    def _credit2(pool: CpuPool) -> Credit2:
        if not isinstance(pool.scheduler, Credit2):
            raise HypercallError(errno.EINVAL, f"CPU pool {pool.number} has the scheduler {pool.scheduler.name}, not credit2")
        return pool.scheduler

    def parameters(self, domid: int) -> SchedulerParameters:
        with self._lock:
            domain = self._hypervisor.domain(domid)
            return SchedulerParameters(*self._credit2(domain.cpupool).parameters(domain))

    def set_parameters(self, domid: int, parameters: SchedulerParameters) -> None:
        with self._lock:
            domain = self._guest(domid)
            scheduler = self._credit2(domain.cpupool)
            if domain.dying:
                raise HypercallError(errno.EINVAL, f"domain {domid} is dying")
            largest_cap = 100 * len(domain.vcpus)
            if not 1 <= parameters.weight <= LARGEST_WEIGHT:
                raise HypercallError(errno.EINVAL, f"a weight is 1 to {LARGEST_WEIGHT}, not {parameters.weight}")
            if not 0 <= parameters.cap <= largest_cap:
                raise HypercallError(
                    errno.EINVAL, f"the cap of domain {domid} is 0 to {largest_cap}, 100 for each vCPU, not {parameters.cap}"
                )
            scheduler.set_parameters(domain, parameters.weight, parameters.cap)

    def ratelimit_us(self, pool: int) -> int:
        with self._lock:
            return self._credit2(self._hypervisor.dispatcher.pool(pool)).ratelimit_us

    def set_ratelimit_us(self, pool: int, microseconds: int) -> None:
        with self._lock:
            scheduler = self._credit2(self._hypervisor.dispatcher.pool(pool))
            if microseconds and not SMALLEST_RATELIMIT_US <= microseconds <= LARGEST_RATELIMIT_US:
                raise HypercallError(
                    errno.EINVAL, f"a rate limit is {SMALLEST_RATELIMIT_US} to {LARGEST_RATELIMIT_US} us, or 0 for none, not {microseconds}"
                )
            scheduler.ratelimit_us = microseconds

    def cpupools(self) -> list[CpuPoolInfo]:
        with self._lock:
            domains = self._hypervisor.domains()
            return [
                CpuPoolInfo(number, pool.scheduler.name, frozenset(pool.processors), sum(domain.cpupool is pool for domain in domains))
                for number, pool in sorted(self._hypervisor.dispatcher.pools.items())
            ]

    def create_cpupool(self, scheduler: str) -> int:
        with self._lock:
            return self._hypervisor.dispatcher.create_pool(scheduler).number

    def destroy_cpupool(self, pool: int) -> None:
        with self._lock:
            self._hypervisor.dispatcher.destroy_pool(pool)

    def add_cpu(self, pool: int, cpu: int) -> None:
        with self._lock:
            dispatcher = self._hypervisor.dispatcher
            dispatcher.add_processor(dispatcher.pool(pool), cpu)

    def remove_cpu(self, pool: int, cpu: int) -> None:
        with self._lock:
            dispatcher = self._hypervisor.dispatcher
            dispatcher.remove_processor(dispatcher.pool(pool), cpu)

    def move_domain(self, domid: int, pool: int) -> None:
        with self._lock:
            self._hypervisor.dispatcher.move_domain(self._guest(domid), self._hypervisor.dispatcher.pool(pool))

    def free_cpus(self) -> frozenset[int]:
        with self._lock:
            return frozenset(self._hypervisor.dispatcher.free_processors())
