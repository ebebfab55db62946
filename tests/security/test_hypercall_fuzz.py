"""Random hypercalls of hostile PV and PVH guests, alone and several in league, while Domain 0 does at random what it does: each call gets
an answer, no reference is miscounted, and another domain notices nothing.

Each example is a machine of its own, with some 100 steps that hypothesis chooses and, at a failure, shrinks. The seeds are fixed.
PYXEN_LONG=1 makes PYXEN_CALLS hypercalls (a million), from a seed that PYXEN_SEED names.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from pyxen.hypervisor import page_tables
from tests.security.campaign import LONG, SEED, explore
from tests.security.domain0_at_random import Domain0AtRandom
from tests.security.hostile_guest import HostileGuest
from tests.security.hostile_pv import HostilePvGuest
from tests.security.hostile_pvh import HostileNarrowGuest, HostilePvhGuest
from tests.security.octets import Octets, octets
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import PAGE, SmallDomain, new_machine

CALLS_IN_ALL = int(os.environ.get("PYXEN_CALLS", "1000000"))
EXAMPLES_PER_SEED = 60
STEPS = 120
CHECK_EVERY = 40
MOST_GUESTS = 4
SHOWN_CALLS = 8
SECRET = bytes(range(256)) * 16

WHO = st.integers(0, MOST_GUESTS - 1)
TIMES = st.integers(1, 8)
FEW, MANY = octets(23), octets(61)
KINDS: dict[str, type[HostilePvGuest] | type[HostilePvhGuest]] = {
    "pv": HostilePvGuest,
    "pvh": HostilePvhGuest,
    "pvh of 32-bit code": HostileNarrowGuest,
}
KIND = st.sampled_from(("pv", *KINDS))


@dataclass
class Totals:
    """``answers``: hypercalls by what came of them; ``domain0``: Domain 0's; ``checks``: how often everything was recounted."""

    answers: Counter[str] = field(default_factory=Counter)
    by_kind: Counter[str] = field(default_factory=Counter)
    domain0: Counter[str] = field(default_factory=Counter)
    checks: int = 0


class Hypercalls(RuleBasedStateMachine):
    """See the module's text. ``totals`` are those of all examples."""

    totals: ClassVar[Totals] = Totals()

    def __init__(self) -> None:
        super().__init__()
        self.machine = new_machine()
        self.free = self.machine.memory.free_frames
        self.victim, self.hvm_victim = SmallDomain(self.machine), SmallHvmDomain(self.machine)
        self.victim.write(self.victim.at(1), SECRET)
        self.hvm_victim.write(PAGE, SECRET)
        self.before = self.machine.memory.tables[self.victim.mfns].copy()
        self.hvm_before = self.machine.memory.tables[self.hvm_victim.mfns].copy()
        self.guests: list[HostilePvGuest | HostilePvhGuest] = []
        self.log: list[str] = []
        self.random_domain0 = Domain0AtRandom(self.machine)
        self.calls = 0

    @initialize(kinds=st.lists(KIND, min_size=1, max_size=3))
    def start(self, kinds: list[str]) -> None:
        for kind in kinds:
            self._create(kind)

    def _create(self, kind: str) -> None:
        guest = KINDS[kind](self.machine, self.victim, log=self.log)
        self.guests.append(guest)
        for one, other in zip(self.guests, self.guests[1:] + self.guests[:1], strict=True):
            one.friend = other.domain.domid

    # -- hypercalls --------------------------------------------------------------------------------------------------
    def _calls(self, name: str | None, octets: Octets, times: int, kind: type[HostileGuest] = HostileGuest) -> None:
        """``times`` in a row, each by any guest of the kind."""
        guests = [guest for guest in self.guests if isinstance(guest, kind)]
        for _ in range(times):
            guest = octets.choice(guests)
            guest.dice = octets
            try:
                answer = guest.act(name)
            finally:
                note(self.log[-1])
            self.totals.answers[answer] += 1
            self.totals.by_kind[_kind(guest)] += 1
            self.calls += 1
            if not self.calls % CHECK_EVERY:
                self._check()

    def _check(self) -> None:
        invariants.check(self.machine)
        self.totals.checks += 1

    def _has_any(self) -> bool:
        return bool(self.guests)

    def _has_pv(self) -> bool:
        return any(isinstance(guest, HostilePvGuest) for guest in self.guests)

    def _has_pvh(self) -> bool:
        return any(isinstance(guest, HostilePvhGuest) for guest in self.guests)

    @precondition(_has_pv)
    @rule(octets=MANY, times=TIMES)
    def mmu_update(self, octets: Octets, times: int) -> None:
        self._calls("mmu_update", octets, times, HostilePvGuest)

    @precondition(_has_pv)
    @rule(octets=MANY, times=TIMES)
    def mmuext_op(self, octets: Octets, times: int) -> None:
        self._calls("mmuext_op", octets, times, HostilePvGuest)

    @precondition(_has_pv)
    @rule(octets=MANY, times=TIMES, name=st.sampled_from(("update_va_mapping", "descriptors")))
    def pages_and_descriptors(self, name: str, octets: Octets, times: int) -> None:
        self._calls(name, octets, times, HostilePvGuest)

    @precondition(_has_pvh)
    @rule(octets=MANY, times=TIMES, name=st.sampled_from(("physical_map", "hvm_op")))
    def physical_map(self, name: str, octets: Octets, times: int) -> None:
        self._calls(name, octets, times, HostilePvhGuest)

    @precondition(_has_any)
    @rule(octets=MANY, times=TIMES, name=st.sampled_from(("event_channel_op", "command", "memory_op", "grants")))
    def common(self, name: str, octets: Octets, times: int) -> None:
        self._calls(name, octets, times)

    @precondition(_has_any)
    @rule(octets=MANY, name=st.sampled_from(("context", "multicall", "anything")))
    def large(self, name: str, octets: Octets) -> None:
        self._calls(name, octets, 1)

    @precondition(_has_any)
    @rule(octets=MANY, times=TIMES)
    def whichever(self, octets: Octets, times: int) -> None:
        self._calls(None, octets, times)

    @precondition(_has_any)
    @rule(octets=MANY)
    def scribble(self, octets: Octets) -> None:
        """Edits of page tables and of APIC registers."""
        guest = octets.choice(self.guests)
        guest.dice = octets
        guest.scribble()

    # -- Domain 0 ----------------------------------------------------------------------------------------------------
    @precondition(lambda self: len(self.guests) < MOST_GUESTS)
    @rule(kind=KIND)
    def create(self, kind: str) -> None:
        self._create(kind)

    @precondition(_has_any)
    @rule(who=WHO, sure=st.integers(0, 3))
    def destroy(self, who: int, sure: int) -> None:
        """Of four only one: most of its calls should be answered by the same guests."""
        if not sure:
            self._destroy(self.guests.pop(who % len(self.guests)))

    def _destroy(self, guest: HostilePvGuest | HostilePvhGuest) -> None:
        self.machine.dom0.destroy_domain(guest.domain.domid)
        self._check()

    @precondition(_has_any)
    @rule(who=WHO, octets=FEW, name=st.sampled_from(("foreign_memory", "grants", "ports", "life", "scheduling")))
    def domain0_acts(self, who: int, name: str, octets: Octets) -> None:
        self.random_domain0.dice = octets
        getattr(self.random_domain0, name)(self.guests[who % len(self.guests)].domain.domid)

    # -- the end -----------------------------------------------------------------------------------------------------
    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            self.machine.close()

    def _finish(self) -> None:
        self._check()
        memory = self.machine.memory
        assert self.victim.read(self.victim.at(1), PAGE) == SECRET == self.hvm_victim.read(PAGE, PAGE)
        assert (memory.tables[self.victim.mfns] == self.before).all()
        assert (memory.tables[self.hvm_victim.mfns] == self.hvm_before).all()
        assert "internal error" not in self.machine.dom0.read_console_ring()
        for guest in self.guests:
            self._destroy(guest)
        self.random_domain0.let_go()
        self.totals.domain0.update(self.random_domain0.results)
        for victim in (self.victim, self.hvm_victim):
            self.machine.dom0.destroy_domain(victim.domid)
        assert memory.free_frames == self.free


def _kind(guest: HostileGuest) -> str:
    return next(name for name, kind in KINDS.items() if type(guest) is kind)


def _fresh() -> tuple[type[Hypercalls], Totals]:
    """The machine with totals of its own."""
    totals = Totals()
    return type("Hypercalls", (Hypercalls,), {"totals": totals}), totals


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(SEED, SEED + 4))
def test_hostile_guests(seed: int) -> None:
    machine, totals = _fresh()
    explore(machine, seed=seed, examples=10, steps=STEPS)
    assert totals.answers["done"] > totals.answers.total() // 5, f"most calls fail at their first check: {totals.answers}"
    assert set(totals.by_kind) == set(KINDS)


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="takes half an hour: PYXEN_LONG=1")
@pytest.mark.timeout(4 * 3600)
def test_a_million_hypercalls(capsys: pytest.CaptureFixture[str]) -> None:
    """Counted: a call is one when its answer is there."""
    machine, totals = _fresh()
    seed = SEED
    try:
        while totals.answers.total() < CALLS_IN_ALL:
            explore(machine, seed=seed, examples=EXAMPLES_PER_SEED, steps=STEPS)
            seed += 1
    finally:  # also if somebody stops it
        with capsys.disabled():
            print(
                f"\n{totals.answers.total()} hypercalls ({dict(totals.by_kind)}) from seed {SEED} to before {seed}, everything recounted "
                f"{totals.checks} times: {dict(totals.answers.most_common())}; Domain 0's between them: {dict(totals.domain0)}"
            )


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(SEED, SEED + (40 if LONG else 3)))
def test_two_vcpus_at_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations that give others the lock at every table, in a guest whose other vCPU uses each chance. What the threads do to each other
    is not the seed's to say, so there is nothing to shrink."""
    monkeypatch.setattr(page_tables, "TABLES_PER_BREATH", 1)
    machine = new_machine()
    try:
        free = machine.memory.free_frames
        victim = SmallDomain(machine)
        first = HostilePvGuest(machine, victim)
        second = HostilePvGuest(machine, victim, log=first.log, sibling=first)
        first.dice, second.dice = random.Random(seed), random.Random(-seed)
        failures: list[str] = []

        def act(guest: HostilePvGuest) -> None:
            try:
                for _ in range(300):
                    if guest.dice.random() < 0.2:
                        guest.scribble()
                    guest.act()
            except Exception as error:
                failures.append(f"seed {seed}: {error!r}; the last calls were\n" + "\n".join(first.log[-SHOWN_CALLS:]))

        threads = [threading.Thread(target=act, args=(guest,)) for guest in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures, failures[0]
        invariants.check(machine)
        first.guest.destroy()
        victim.destroy()
        assert machine.memory.free_frames == free
    finally:
        machine.close()
