"""The timer of a local APIC: one-shot, periodic, TSC deadline (Intel SDM volume 3, section 11.5.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu
    from pyxen.hypervisor.timers import Timer

ONE_SHOT, PERIODIC, TSC_DEADLINE = range(3)
#: One tick of the undivided clock in nanoseconds (Xen's APIC_BUS_CYCLE_NS).
TICK_NS = 10
#: A guest that wants more interrupts than this gets fewer.
SHORTEST_PERIOD_NS = 50_000


def divisor(register: int) -> int:
    """Of the divide configuration register: bits 0, 1 and 3 are an exponent, 7 stands for 1."""
    return 1 << ((register & 3 | register >> 1 & 4) + 1 & 7)


class ApicTimer:
    """``fired`` is called with the hypervisor lock held when the time has come."""

    deadline_tsc: int

    def __init__(self, vcpu: HvmVcpu, fired: Callable[[], None]) -> None:
        self._vcpu = vcpu
        self._hypervisor = vcpu.hypervisor
        self._fired = fired
        self._timer: Timer | None = None
        self._divisor = 2
        self._deadline_ns = 0
        self._periodic = False
        self.initial = 0
        self.deadline_tsc = 0

    @staticmethod
    def mode(local_vector: int) -> int:
        """One of the three, from the timer's local vector register."""
        return min(local_vector >> 17 & 3, TSC_DEADLINE)

    def stop(self) -> None:
        """Disarm; the counts are 0."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.initial = self.deadline_tsc = 0

    def start(self, count: int, local_vector: int, divide: int) -> None:
        """Write of the initial count; 0 stops."""
        self.stop()
        self.initial = count
        self._divisor = divisor(divide)
        self._periodic = self.mode(local_vector) == PERIODIC
        if count:
            self._arm(self._hypervisor.now() + self._period_ns)

    def change_divisor(self, divide: int) -> None:
        """A running timer goes on with what is left of its count."""
        left = self.current()
        self._divisor = divisor(divide)
        if self._timer is not None and self.initial:
            self._timer.cancel()
            self._arm(self._hypervisor.now() + left * TICK_NS * self._divisor)

    @property
    def _period_ns(self) -> int:
        return self.initial * TICK_NS * self._divisor

    def current(self) -> int:
        """The count that is left."""
        if self._timer is None or not self.initial:
            return 0
        return max(0, self._deadline_ns - self._hypervisor.now()) // (TICK_NS * self._divisor)

    def set_deadline(self, tsc: int) -> None:
        """TSC deadline mode: fire when the counter reaches this; 0 stops."""
        self.stop()
        self.deadline_tsc = tsc
        self._periodic = False
        if tsc:
            self._arm(self._vcpu.domain.counter.system_time(self._vcpu, tsc))

    def _arm(self, deadline_ns: int) -> None:
        self._deadline_ns = deadline_ns
        self._timer = self._hypervisor.timers.add(deadline_ns, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.deadline_tsc = 0
        if self._periodic and self.initial:
            # Missed periods are not made up for.
            period = max(self._period_ns, SHORTEST_PERIOD_NS)
            self._arm(max(self._deadline_ns + period, self._hypervisor.now() + SHORTEST_PERIOD_NS))
        self._fired()
