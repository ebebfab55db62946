"""Fixtures: the built micro-guests and the machine that runs them, both once for all tests here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import PackageError
from tests.guests.build import Builder, all_programs, pvh_programs
from tests.guests.machine import Machine, running_machine


@pytest.fixture(scope="session")
def guests() -> dict[str, Path]:
    """The kernel of each program, by name."""
    try:
        return Builder().build([*all_programs(), *pvh_programs()])
    except PackageError as error:
        pytest.fail(f"the Xen headers that micro-guests need can't be had: {error}")


@pytest.fixture(scope="session")
def machine() -> Iterator[Machine]:
    """One hypervisor for all guests."""
    with running_machine() as running:
        yield running
