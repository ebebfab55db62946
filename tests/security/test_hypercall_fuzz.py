"""Random hypercalls of hostile guests, alone and two in league: each gets an answer, no reference is miscounted, and another domain
notices nothing.

The seeds are fixed. PYXEN_LONG=1 takes many more, from a base that PYXEN_SEED names.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator

import pytest

from pyxen.hypervisor import page_tables
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.security.hostile_guest import HostileGuest
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import PAGE, SmallDomain, new_machine

LONG = bool(os.environ.get("PYXEN_LONG"))
SEED = int(os.environ.get("PYXEN_SEED", "1"))
RUNS = 400 if LONG else 12
CALLS = 1000 if LONG else 400
CHECK_EVERY = 50
SHOWN_CALLS = 8


@pytest.fixture
def machine() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    yield hypervisor
    hypervisor.close()


@pytest.mark.long
@pytest.mark.timeout(3600 if LONG else 120)
@pytest.mark.parametrize("seed", range(SEED, SEED + RUNS))
def test_hostile_guests(machine: Hypervisor, seed: int) -> None:
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
        for number in range(CALLS):
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
