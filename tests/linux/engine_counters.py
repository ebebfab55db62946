"""What the engine served by itself for a domain, and what it left to Python: ``pyxen stats``."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from pyxen.hypervisor.gate import is_wanted
from tests.linux.linux_guest import LinuxGuest
from tests.toolstack.xl_command import run

needs_the_gate = pytest.mark.skipif(not is_wanted(), reason="without the native gate, all of this is Python's")


def counters(guest: LinuxGuest) -> dict[str, Counter[str]]:
    """So far: ``exits``, ``hypercalls``, ``native``, ``native_hypercalls``, each by name."""
    domains = json.loads(run("pyxen", "stats", "--json").stdout)["domains"]
    found = next(domain["counters"] for domain in domains if domain["domid"] == guest.domain.domid)
    return {name: Counter(counts) for name, counts in found.items() if isinstance(counts, dict)}


def check_that_ticks_stay_in_the_engine(guest: LinuxGuest) -> None:
    """Two seconds of computing, at 250 Hz, of which a busy machine may give the guest a third."""
    before = counters(guest)
    guest.run("timeout 2 sh -c 'while :; do :; done'; true")
    after = counters(guest)
    ticks, exits = (after[kind] - before[kind] for kind in ("native", "exits"))
    assert ticks["timer"] > 150, ticks
    assert exits.total() < ticks["timer"], exits
