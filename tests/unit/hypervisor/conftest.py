"""A machine for each test. At its end everything that was counted is counted again, and destroying all domains gives every frame back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyxen.hypervisor import preemption
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import SmallDomain, new_machine


@pytest.fixture(autouse=True)
def no_time_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work gives way after a counted number of elements only: a busy machine changes no result."""
    monkeypatch.setattr(preemption, "SLICE_NS", 10**12)


@pytest.fixture
def machine() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    free = hypervisor.memory.free_frames
    try:
        yield hypervisor
        invariants.check(hypervisor)
        for domain in hypervisor.domains():
            if domain.domid:
                hypervisor.dom0.destroy_domain(domain.domid)
        assert hypervisor.memory.free_frames == free
        invariants.check(hypervisor)
    finally:
        hypervisor.close()


@pytest.fixture
def guest(machine: Hypervisor) -> SmallDomain:
    return SmallDomain(machine)
