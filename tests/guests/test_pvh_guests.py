"""Every PVH micro-guest runs in a domain of its own, in each of its modes, and must end as its source says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.guests.build import Program, pvh_programs
from tests.guests.machine import DESTROY_TIMEOUT_S, Machine
from tests.guests.test_guests import parameters, run_program


@pytest.mark.parametrize("program", parameters(pvh_programs()))
def test_pvh_guest(program: Program, guests: dict[str, Path], machine: Machine) -> None:
    run_program(program, guests, machine)


@pytest.mark.parametrize("mode", ["64", "pae", "32"])
def test_a_module_and_a_command_line(guests: dict[str, Path], machine: Machine, tmp_path: Path, mode: str) -> None:
    """The program finds what the command line says of the module."""
    content = bytes(number * 7 & 0xFF for number in range(12345))
    (tmp_path / "module").write_bytes(content)
    line = f"size={len(content)} sum={sum(content)} length="
    line += str(len(line) + 2)
    kernel = guests[f"pvh_start_of_day-{mode}"]
    outcome = machine.run(kernel, kind="pvh", command_line=line, ramdisk=tmp_path / "module")
    assert outcome.passed, outcome
    assert "ok its contents" in outcome.console


def test_guests_that_misbehave_side_by_side(guests: dict[str, Path], machine: Machine) -> None:
    """Those that crash and those that never end, while others do their work."""
    bad = [program for program in pvh_programs() if program.expect in ("crash", "running", "any") and program.platform.name == "64"]
    good = [name for name in guests if name.startswith(("pvh_events", "pvh_grant_map", "pvh_physical_holes"))]
    with ThreadPoolExecutor(4) as pool:
        nuisances = [
            pool.submit(machine.run, guests[program.name], kind="pvh", vcpus=program.vcpus, timeout_s=1.0, until="RESULT PASS")
            for program in bad
        ]
        outcomes = {name: pool.submit(machine.run, guests[name], kind="pvh", vcpus=2) for name in good}
        failures = {name: run.result() for name, run in outcomes.items() if not run.result().passed}
        endings = {program.name: run.result() for program, run in zip(bad, nuisances, strict=True)}
    assert not failures, "\n".join(map(str, failures.values()))
    assert all(outcome.destroy_seconds < DESTROY_TIMEOUT_S for outcome in endings.values()), endings
    assert machine.domains() == []
