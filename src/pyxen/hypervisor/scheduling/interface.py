"""What the dispatcher needs from a scheduler, and what both know of a vCPU and of a physical CPU.

A *processor* is one of the machine's physical CPUs: the right for one vCPU at a time to execute. A *unit* is a vCPU as the schedulers
see it. It sleeps (its vCPU is not runnable), waits, or holds a processor. The dispatcher moves it from one to the other and tells the
scheduler; the scheduler keeps the waiting ones and decides. Everything is called with the hypervisor lock held; times are nanoseconds of
system time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pyxen.hypervisor.timers import Timer

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.scheduling.cpu_pool import CpuPool
    from pyxen.hypervisor.vcpu import Vcpu


class Processor:
    """One physical CPU. ``pool`` None: in none, nothing runs on it. ``timer`` is set while its current unit has only a slice of time."""

    __slots__ = ("current", "number", "pool", "timer")

    def __init__(self, number: int) -> None:
        self.number = number
        self.pool: CpuPool | None = None
        self.current: Unit | None = None
        self.timer: Timer | None = None


class Unit:
    """One vCPU. ``allowed``: numbers of the processors of its pool that its hard affinity leaves; ``preferred``: those of them that its
    soft affinity names, or all of them when it names none. Affinity None: every CPU."""

    __slots__ = ("allowed", "hard", "last", "pool", "preferred", "processor", "soft", "started_ns", "vcpu", "waiting")

    def __init__(self, vcpu: Vcpu, pool: CpuPool) -> None:
        self.vcpu = vcpu
        self.pool = pool
        self.hard: frozenset[int] | None = None
        self.soft: frozenset[int] | None = None
        self.allowed: frozenset[int] = frozenset()
        self.preferred: frozenset[int] = frozenset()
        self.processor: Processor | None = None
        self.last = -1  #: number of the processor that it had last; -1: none yet
        self.started_ns = 0  #: when it got its processor
        self.waiting = False


@dataclass(frozen=True, slots=True)
class Decision:
    """Who gets the processor (None: nobody), and for how long (None: until something happens)."""

    unit: Unit | None
    slice_ns: int | None = None


IDLE = Decision(None)


class SchedulerContext(Protocol):
    """What a scheduler may ask of the dispatcher."""

    def now(self) -> int:
        """System time."""

    def at(self, deadline_ns: int, callback: Callable[[], None]) -> Timer:
        """Call back at that time."""

    def offer(self, unit: Unit, now_ns: int) -> None:
        """A unit that waits has become eligible by the scheduler's own doing: find it a processor."""

    def shorten(self, processor: Processor, now_ns: int) -> None:
        """The slice of the processor's current unit may have become shorter."""


class Scheduler(Protocol):
    """The policy of one pool."""

    #: As ``sched=`` of xlcpupool.cfg(5) and ``xl cpupool-list`` spell it.
    name: str

    def insert(self, unit: Unit) -> None:
        """A vCPU came into the pool. It sleeps."""

    def remove(self, unit: Unit) -> None:
        """It goes. It sleeps."""

    def wake(self, unit: Unit, now_ns: int) -> bool:
        """It waits from now on. -> whether it may run at once (False: it is out of budget, or has no processor)."""

    def sleep(self, unit: Unit, now_ns: int) -> None:
        """It waited, or held a processor, and sleeps from now on."""

    def pick(self, processor: Processor, now_ns: int) -> Decision:
        """Who should have the processor: its current unit or one that waits. The chosen one waits no more; a current unit that is not
        chosen waits from now on."""

    def gives_way(self, processor: Processor, now_ns: int) -> bool:
        """Whether ``pick`` would now choose another than the current unit. Changes nothing but accounts."""

    def slice_ns(self, processor: Processor, now_ns: int) -> int | None:
        """How long from now on the current unit may go on before the question is asked again. None: until something happens."""

    def rival(self, unit: Unit, now_ns: int) -> Processor | None:
        """No processor is free for this waiting unit: the one whose current unit has to give way to it at once."""

    def yielded(self, unit: Unit, now_ns: int) -> None:
        """SCHEDOP_yield: the next ``pick`` should prefer others to it."""

    def processors_changed(self) -> None:
        """The pool got or lost a processor, or a unit's affinity changed."""

    def describe(self) -> Iterable[str]:
        """Its state for debug key 'r'."""


class WeightedScheduler(Scheduler, Protocol):
    """One with parameters of domains: weight and cap (XEN_DOMCTL_SCHEDOP_putinfo), and a rate limit (XEN_SYSCTL_scheduler_op)."""

    ratelimit_us: int

    def parameters(self, domain: Domain) -> tuple[int, int]:
        """Weight and cap."""

    def set_parameters(self, domain: Domain, weight: int, cap: int) -> None:
        """Both are checked by the caller."""
