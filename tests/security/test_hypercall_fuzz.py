"""Random hypercalls of hostile guests, alone and two in league: each gets an answer, no reference is miscounted, and another domain
notices nothing.

The seeds are fixed. PYXEN_LONG=1 makes a million calls, from a seed that PYXEN_SEED names.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from pyxen.hypervisor import page_tables
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.security.hostile_guest import HostileGuest
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import PAGE, SmallDomain, new_machine

LONG = bool(os.environ.get("PYXEN_LONG"))
SEED = int(os.environ.get("PYXEN_SEED", "1"))
CALLS_IN_ALL, CALLS_PER_RUN = 1_000_000, 1000
CHECK_EVERY = 50
SHOWN_CALLS = 8


@pytest.fixture
def machine() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    yield hypervisor
    hypervisor.close()


def run(machine: Hypervisor, seed: int, calls: int) -> Counter[str]:
    """One hostile guest or two beside a victim. -> how many hypercalls were answered how."""
    free = machine.memory.free_frames
    victim = SmallDomain(machine)
    secret = bytes(range(256)) * 16
    victim.write(victim.at(1), secret)
    before = machine.memory.tables[victim.mfns].copy()
    dice = random.Random(seed)
    hostile = [HostileGuest(machine, victim, dice)]
    if seed % 2:
        hostile.append(HostileGuest(machine, victim, dice, friend=hostile[0].guest.domid, log=hostile[0].log))
        hostile[0].friend = hostile[1].guest.domid
    try:
        for number in range(calls):
            dice.choice(hostile).act()
            if number % CHECK_EVERY == CHECK_EVERY - 1:
                invariants.check(machine)
    except Exception as error:
        pytest.fail(f"seed {seed}, call {number}: {error!r}; the last calls were\n" + "\n".join(hostile[0].log[-SHOWN_CALLS:]))
    assert victim.read(victim.at(1), PAGE) == secret
    assert (machine.memory.tables[victim.mfns] == before).all()
    for guest in hostile:
        guest.guest.destroy()
        invariants.check(machine)
    victim.destroy()
    assert machine.memory.free_frames == free
    return sum((guest.results for guest in hostile), Counter())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(SEED, SEED + 12))
def test_hostile_guests(machine: Hypervisor, seed: int) -> None:
    results = run(machine, seed, 400)
    assert results["done"] > 50, f"most calls fail at their first check: {results}"


@pytest.mark.long
@pytest.mark.skipif(not LONG, reason="takes a quarter of an hour: PYXEN_LONG=1")
@pytest.mark.timeout(7200)
def test_a_million_hypercalls(capsys: pytest.CaptureFixture[str]) -> None:
    """Counted, each thousand on a machine of its own."""
    results: Counter[str] = Counter()
    seed = SEED
    while results.total() < CALLS_IN_ALL:
        machine = new_machine()
        try:
            results += run(machine, seed, CALLS_PER_RUN)
        finally:
            machine.close()
        seed += 1
    with capsys.disabled():
        print(f"\n{results.total()} hypercalls from seeds {SEED} to {seed - 1}: {dict(results.most_common())}")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", range(SEED, SEED + (40 if LONG else 3)))
def test_two_vcpus_at_once(machine: Hypervisor, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Validations that give others the lock at every table, in a guest whose other vCPU uses each chance."""
    monkeypatch.setattr(page_tables, "TABLES_PER_BREATH", 1)
    free = machine.memory.free_frames
    victim = SmallDomain(machine)
    first = HostileGuest(machine, victim, random.Random(seed))
    second = HostileGuest(machine, victim, random.Random(-seed), log=first.log, sibling=first)
    failures: list[str] = []

    def act(guest: HostileGuest) -> None:
        try:
            for _ in range(300):
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
