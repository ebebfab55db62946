"""Every micro-guest runs in a domain of its own and must end as its source says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pyxen.hypervisor.dom0_interface import ShutdownReason
from tests.guests.build import Program, all_programs, pvh_programs
from tests.guests.machine import DESTROY_TIMEOUT_S, Machine

REASONS = {
    "poweroff": ShutdownReason.POWEROFF,
    "reboot": ShutdownReason.REBOOT,
    "crash": ShutdownReason.CRASH,
    "suspend": ShutdownReason.SUSPEND,
}


def parameters(programs: list[Program]) -> list[object]:
    """One per program; those that fail today for a known reason must still fail (so that the mark goes when the reason does)."""
    return [
        pytest.param(
            program, id=program.name, marks=[pytest.mark.xfail(reason=program.known_failure, strict=True)] if program.known_failure else []
        )
        for program in programs
    ]


@pytest.mark.parametrize("program", parameters(all_programs()))
def test_guest(program: Program, guests: dict[str, Path], machine: Machine) -> None:
    run_program(program, guests, machine)


def run_program(program: Program, guests: dict[str, Path], machine: Machine) -> None:
    """Run one; it must end as its source says."""
    endless = program.expect == "running"
    machine.log()
    outcome = machine.run(
        guests[program.name],
        kind=program.platform.kind,
        memory_mib=program.memory_mib,
        vcpus=program.vcpus,
        timeout_s=program.timeout_s,
        until="RESULT PASS" if endless else "",
    )
    report = f"{program.name}: {outcome}\n--- xl dmesg ---\n{machine.log()}"
    assert outcome.ended != endless, report
    if program.expect in REASONS:
        assert outcome.reason is REASONS[program.expect], report
    if program.expect in ("crash", "any"):
        assert "FAIL" not in outcome.console, report
    else:
        assert outcome.passed, report
    assert program.silent or f"TEST {program.source.stem}" in outcome.console, report
    assert "internal error" not in report, report
    assert outcome.destroy_seconds < DESTROY_TIMEOUT_S, report
    assert machine.domains() == [], report
    if program.bench:
        print("\n".join(line for line in outcome.console.splitlines() if line.startswith("BENCH")))


def test_guests_side_by_side(guests: dict[str, Path], machine: Machine) -> None:
    """One that loops masked, one that makes hypercalls without end and two that count and fault: they do not disturb each other."""
    names = ["loop_masked", "event_interrupts_kernel", "loop_hypercalls", "fpu_state"]
    with ThreadPoolExecutor(len(names)) as pool:
        runs = {name: pool.submit(machine.run, guests[name], timeout_s=2.0 if name.startswith("loop") else 20.0) for name in names}
        outcomes = {name: run.result() for name, run in runs.items()}
    assert all(outcome.passed for outcome in outcomes.values()), "\n".join(map(str, outcomes.values()))
    assert [name for name, outcome in outcomes.items() if not outcome.ended] == ["loop_masked", "loop_hypercalls"]
    assert machine.domains() == []


def _failures(guests: dict[str, Path], machine: Machine) -> str:
    """Run all ordinary programs once more. -> what went wrong, a line each."""
    programs = [
        program
        for program in (*all_programs(), *pvh_programs())
        if program.expect == "poweroff" and not program.known_failure and not program.bench
    ]
    outcomes = {
        program.name: machine.run(
            guests[program.name],
            kind=program.platform.kind,
            vcpus=program.vcpus,
            memory_mib=program.memory_mib,
            timeout_s=program.timeout_s,
        )
        for program in programs
    }
    return "\n".join(f"{name}: {outcome}" for name, outcome in outcomes.items() if not outcome.passed)


def test_guests_that_are_paused_all_the_time(guests: dict[str, Path], machine: Machine) -> None:
    """All programs again, stopped and resumed thousands of times a second: nothing may be lost, done twice or torn."""
    with machine.pausing():
        failures = _failures(guests, machine)
    assert not failures, failures


def test_guests_without_the_native_gate(guests: dict[str, Path], machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python paths are the reference for the native ones: the programs see no difference."""
    monkeypatch.setenv("PYXEN_GATE", "python")
    failures = _failures(guests, machine)
    assert not failures, failures
