"""Every PVH micro-guest runs in a domain of its own, in each of its modes, and must end as its source says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guests.build import Program, pvh_programs
from tests.guests.machine import Machine
from tests.guests.test_guests import parameters, run_program


@pytest.mark.parametrize("program", parameters(pvh_programs()))
def test_pvh_guest(program: Program, guests: dict[str, Path], machine: Machine) -> None:
    run_program(program, guests, machine)
