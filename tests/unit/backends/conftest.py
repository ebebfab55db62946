"""What the tests of all backends begin with; those of other backends than disks have a ``play`` of their own."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.backends.block_guest import Play, Scenario, block_world
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import new_machine


@pytest.fixture(scope="module")
def hypervisor() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    yield hypervisor
    invariants.check(hypervisor)
    hypervisor.close()


@pytest.fixture
def kind() -> str:
    """Of the domain whose frontend the test plays; files of tests about what frontends do wrong have both kinds."""
    return "pv"


@pytest.fixture
def play(hypervisor: Hypervisor, tmp_path: Path, kind: str) -> Play:
    """Runs a scenario with a disk's frontend; nothing may be left behind."""

    async def main(scenario: Scenario) -> None:
        gc.collect()  # what other tests left to the collector does not count
        before = len(os.listdir("/proc/self/fd"))
        async with block_world(hypervisor, tmp_path, kind=kind) as world:
            await scenario(world)
        assert len(os.listdir("/proc/self/fd")) == before

    return lambda scenario: asyncio.run(asyncio.wait_for(main(scenario), 60))
