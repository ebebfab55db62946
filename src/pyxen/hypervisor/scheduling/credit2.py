"""Credit2, Xen's default scheduler (Xen's docs/features/sched_credit2, common/sched/credit2.c).

Every unit has credit. While it runs it burns credit, the faster the smaller its weight is compared with the heaviest one's; the waiting
unit with the most credit runs next. When the one chosen has none left, all get the same amount anew. So the time of each is in
proportion to its weight, and who slept a while has more credit than those who ran and goes first when it wakes.

A cap is a budget: a domain with cap 25 has a quarter of a period's time in each period, shared by its vCPUs; without budget its vCPUs are
parked until the next replenishment. What is used above the budget is owed to the next period.

One run queue per pool (Xen: ``credit2_runqueue=all``), so units move between processors without a load balancer. Unlike Xen's, a
processor that nobody waits for is never interrupted: its unit's credit is counted when that matters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pyxen.hypervisor.scheduling.interface import IDLE, Decision, Processor, SchedulerContext, Unit
from pyxen.hypervisor.timers import Timer

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.scheduling.cpu_pool import CpuPool

DEFAULT_WEIGHT = 256
MILLISECOND = 1_000_000
#: What a reset gives; credit is in nanoseconds of the heaviest unit's time.
CREDIT_INIT = 10 * MILLISECOND
#: What may be left over from before a reset.
CARRY_OVER = MILLISECOND // 2
SHORTEST_SLICE_NS = MILLISECOND // 2
LONGEST_SLICE_NS = CREDIT_INIT
#: By so much more credit a unit must have to be moved from the processor that it had last.
MIGRATE_RESIST = MILLISECOND // 2
#: Others with so much less credit still go before one that yielded.
YIELD_BIAS = MILLISECOND
#: Xen's CSCHED2_BDGT_REPL_PERIOD.
BUDGET_PERIOD_NS = 10 * MILLISECOND
DEFAULT_RATELIMIT_US = 1000
#: Bounds of what ``xl sched-credit2 -r`` sets (xen/sysctl.h: XEN_SYSCTL_SCHED_RATELIMIT_*); 0 turns it off.
LARGEST_RATELIMIT_US = 500_000
SMALLEST_RATELIMIT_US = 100


@dataclass(eq=False, slots=True)
class DomainAccount:
    """One domain. ``cap`` in percent of one processor, 0: none. ``budget_ns`` is what is left of the period; below 0: owed."""

    weight: int = DEFAULT_WEIGHT
    cap: int = 0
    budget_ns: int = 0
    units: list[Unit] = field(default_factory=list)
    replenishment: Timer | None = None
    next_ns: int = 0

    @property
    def quota_ns(self) -> int:
        return self.cap * BUDGET_PERIOD_NS // 100

    @property
    def exhausted(self) -> bool:
        return self.cap > 0 and self.budget_ns <= 0


@dataclass(eq=False, slots=True)
class Account:
    """One unit. Charged up to ``charged_ns``, which counts while it holds a processor."""

    domain: DomainAccount
    credit: int = CREDIT_INIT
    charged_ns: int = 0
    has_yielded: bool = False


class Credit2:
    """See the module's text."""

    name = "credit2"

    def __init__(self, pool: CpuPool, context: SchedulerContext) -> None:
        self._pool = pool
        self._context = context
        self._accounts: dict[Unit, Account] = {}
        self._domains: dict[Domain, DomainAccount] = {}
        self._waiting: dict[Unit, Account] = {}  # in the order of arrival
        self._heaviest = DEFAULT_WEIGHT
        self.ratelimit_us = DEFAULT_RATELIMIT_US

    # -- units -----------------------------------------------------------------------------------------------------------
    def insert(self, unit: Unit) -> None:
        domain = self._domains.setdefault(unit.vcpu.domain, DomainAccount())
        domain.units.append(unit)
        self._accounts[unit] = Account(domain)
        self._find_heaviest()

    def remove(self, unit: Unit) -> None:
        account = self._accounts.pop(unit)
        account.domain.units.remove(unit)
        if not account.domain.units:
            self._stop_replenishment(account.domain)
            del self._domains[unit.vcpu.domain]
        self._find_heaviest()

    def _find_heaviest(self) -> None:
        self._heaviest = max((domain.weight for domain in self._domains.values()), default=DEFAULT_WEIGHT)

    def wake(self, unit: Unit, now_ns: int) -> bool:
        self._catch_up(now_ns)
        account = self._accounts[unit]
        self._waiting[unit] = account
        return not account.domain.exhausted

    def sleep(self, unit: Unit, now_ns: int) -> None:
        if self._waiting.pop(unit, None) is None:
            self._charge(unit, now_ns)

    def yielded(self, unit: Unit, now_ns: int) -> None:
        if self._waiting:
            self._accounts[unit].has_yielded = True

    # -- credit ----------------------------------------------------------------------------------------------------------
    def _charge(self, unit: Unit, now_ns: int) -> Account:
        """Burn the credit, and the budget, for the time since the last charge."""
        account = self._accounts[unit]
        elapsed = now_ns - account.charged_ns
        if elapsed > 0:
            domain = account.domain
            account.charged_ns = now_ns
            account.credit -= elapsed * self._heaviest // domain.weight
            if domain.cap:
                domain.budget_ns -= elapsed
        return account

    def _reset_credit(self, account: Account, now_ns: int) -> None:
        """``account``, out of credit, was chosen: everybody gets as much as it needs to have some again."""
        amount = CREDIT_INIT * (1 + max(0, -account.credit) // CREDIT_INIT)
        for unit, other in self._accounts.items():
            if unit.processor is not None:
                self._charge(unit, now_ns)
            other.credit = min(other.credit + amount, CREDIT_INIT + CARRY_OVER)

    def _catch_up(self, now_ns: int) -> None:
        """Processors that nobody waited for were not looked at: do the resets that were due meanwhile, or their units would owe
        all the time that nobody else wanted."""
        for processor in self._pool.processors.values():
            unit = processor.current
            if unit is not None and processor.timer is None:
                account = self._charge(unit, now_ns)
                if account.credit <= 0:
                    self._reset_credit(account, now_ns)

    # -- decisions -------------------------------------------------------------------------------------------------------
    def pick(self, processor: Processor, now_ns: int) -> Decision:
        current = processor.current
        chosen = self._best(processor, now_ns)
        if current is not None:
            self._accounts[current].has_yielded = False
        if chosen is not current:
            if current is not None:
                self._waiting[current] = self._accounts[current]
            if chosen is None:
                return IDLE
            account = self._waiting.pop(chosen)
            account.charged_ns = now_ns
        if chosen is None:
            return IDLE
        account = self._accounts[chosen]
        if account.credit <= 0:
            self._reset_credit(account, now_ns)
        return Decision(chosen, self._slice(chosen, processor, now_ns, started_ns=now_ns if chosen is not current else chosen.started_ns))

    def gives_way(self, processor: Processor, now_ns: int) -> bool:
        return self._best(processor, now_ns) is not processor.current

    def _best(self, processor: Processor, now_ns: int) -> Unit | None:
        """Who should run: the current unit within its rate limit, else whoever has most credit."""
        current = processor.current
        best: Unit | None = None
        best_credit = 0
        if current is not None:
            account = self._charge(current, now_ns)
            if not account.domain.exhausted and processor.number in current.allowed:
                if not account.has_yielded and now_ns - current.started_ns < self.ratelimit_us * 1000:
                    return current
                best, best_credit = current, account.credit - (YIELD_BIAS if account.has_yielded else 0)
        for unit, account in self._waiting.items():
            if account.domain.exhausted or processor.number not in unit.allowed:
                continue
            resist = MIGRATE_RESIST if best is current is not None and unit.last not in (-1, processor.number) else 0
            if best is None or account.credit > best_credit + resist:
                best, best_credit = unit, account.credit
        return best

    def slice_ns(self, processor: Processor, now_ns: int) -> int | None:
        current = processor.current
        if current is None:
            return None
        self._charge(current, now_ns)
        return self._slice(current, processor, now_ns, current.started_ns)

    def _slice(self, unit: Unit, processor: Processor, now_ns: int, started_ns: int) -> int | None:
        """Until its credit, or its lead over the best waiting one, is used up."""
        account = self._accounts[unit]
        domain = account.domain
        budget: int | None = None
        if domain.cap:
            running = sum(other.processor is not None or other is unit for other in domain.units)
            budget = max(domain.budget_ns // running, 1)
        number = processor.number
        rivals = [other.credit for rival, other in self._waiting.items() if not other.domain.exhausted and number in rival.allowed]
        if not rivals:
            return budget
        lead = account.credit - max(0, *rivals)
        shortest = max(SHORTEST_SLICE_NS, self.ratelimit_us * 1000 - (now_ns - started_ns))
        length = min(max(lead * domain.weight // self._heaviest, shortest), max(LONGEST_SLICE_NS, shortest))
        return length if budget is None else min(length, budget)

    def rival(self, unit: Unit, now_ns: int) -> Processor | None:
        """Where the unit with the least credit runs, first among the processors that ``unit`` prefers (Xen's runq_tickle)."""
        account = self._accounts[unit]
        if account.domain.exhausted:
            return None
        credit = account.credit
        for numbers in (unit.preferred, unit.allowed):
            found: tuple[int, Processor] | None = None
            for number in numbers:
                processor = self._pool.processors[number]
                current = processor.current
                if current is None or not current.vcpu.may_enter or now_ns - current.started_ns < self.ratelimit_us * 1000:
                    continue  # idle, or giving way already, or within the rate limit: its timer brings it
                score = self._charge(current, now_ns).credit + (MIGRATE_RESIST if unit.last not in (-1, number) else 0)
                if score < credit and (found is None or score < found[0]):
                    found = (score, processor)
            if found is not None:
                return found[1]
        return None

    def processors_changed(self) -> None:
        pass

    # -- parameters ------------------------------------------------------------------------------------------------------
    def parameters(self, domain: Domain) -> tuple[int, int]:
        """Weight, and cap in percent of one processor."""
        account = self._domains.get(domain) or DomainAccount()
        return account.weight, account.cap

    def set_parameters(self, domain: Domain, weight: int, cap: int) -> None:
        """Takes effect at once. The budget starts full."""
        account, now = self._domains[domain], self._context.now()
        for unit in account.units:
            if unit.processor is not None:
                self._charge(unit, now)
        account.weight = weight
        self._find_heaviest()
        if cap == account.cap:
            return
        self._stop_replenishment(account)
        account.cap = cap
        account.budget_ns = account.quota_ns
        if cap:
            account.next_ns = now
            self._schedule_replenishment(account)
        self._offer_all(account, now)
        for unit in account.units:
            if unit.processor is not None:
                self._context.shorten(unit.processor, now)

    # -- budgets ---------------------------------------------------------------------------------------------------------
    def _schedule_replenishment(self, account: DomainAccount) -> None:
        account.next_ns += BUDGET_PERIOD_NS
        account.replenishment = self._context.at(account.next_ns, lambda: self._replenish(account))

    def _stop_replenishment(self, account: DomainAccount) -> None:
        if account.replenishment is not None:
            account.replenishment.cancel()
            account.replenishment = None

    def _replenish(self, account: DomainAccount) -> None:
        """A new period. What was not used is lost; what was used too much is taken off. A late timer makes up for the periods it missed."""
        now = self._context.now()
        for unit in account.units:
            if unit.processor is not None:
                self._charge(unit, now)
        missed = max(0, (now - account.next_ns) // BUDGET_PERIOD_NS)
        account.next_ns += missed * BUDGET_PERIOD_NS
        account.budget_ns = min(account.budget_ns + (1 + missed) * account.quota_ns, account.quota_ns)
        self._schedule_replenishment(account)
        self._offer_all(account, now)

    def _offer_all(self, account: DomainAccount, now_ns: int) -> None:
        if account.exhausted:
            return
        for unit in tuple(account.units):
            if unit in self._waiting:
                self._context.offer(unit, now_ns)

    def describe(self) -> Iterable[str]:
        yield f"rate limit {self.ratelimit_us} us, heaviest weight {self._heaviest}, {len(self._waiting)} waiting"
        for unit, account in self._accounts.items():
            where = f"on CPU {unit.processor.number}" if unit.processor is not None else "waiting" if unit in self._waiting else "asleep"
            cap = f", cap {account.domain.cap}, budget {account.domain.budget_ns} ns" if account.domain.cap else ""
            yield f"d{unit.vcpu.domain.domid}v{unit.vcpu.vcpu_id}: {where}, credit {account.credit}, weight {account.domain.weight}{cap}"
