"""The time-stamp counter as ``tsc_mode`` wants it: the programs about time see no difference but in what tells the mode."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyxen.hypervisor.dom0_interface import TscMode
from tests.guests.machine import Machine

CLOCK_PROGRAMS = ("tsc", "time_pvclock", "time_stamp_instructions", "time_timers", "time_monotonic")


@pytest.mark.parametrize("mode", TscMode)
def test_what_a_guest_sees_of_the_mode(guests: dict[str, Path], machine: Machine, mode: TscMode) -> None:
    outcome = machine.run(guests["tsc_mode"], command_line=f"mode={mode.value}", tsc_mode=mode)
    assert outcome.passed, outcome
    emulated = "ok emulated: never the same twice" in outcome.console
    assert emulated == (mode is TscMode.ALWAYS_EMULATE)


@pytest.mark.parametrize("program", CLOCK_PROGRAMS)
def test_time_with_an_emulated_counter(guests: dict[str, Path], machine: Machine, program: str) -> None:
    outcome = machine.run(guests[program], vcpus=4 if program == "time_monotonic" else 1, tsc_mode=TscMode.ALWAYS_EMULATE, timeout_s=60)
    assert outcome.passed, outcome


@pytest.mark.parametrize("mode", TscMode)
@pytest.mark.parametrize("program", ("time_stamp_counter", "timers"))
def test_counters_of_pvh_domains(guests: dict[str, Path], machine: Machine, program: str, mode: TscMode) -> None:
    outcome = machine.run(guests[f"pvh_{program}-64"], kind="pvh", vcpus=3, tsc_mode=mode)
    assert outcome.passed, outcome


def test_a_host_without_a_reliable_counter(guests: dict[str, Path]) -> None:
    """The default mode emulates then, and says so; native stays native."""
    machine = Machine(tsc_is_reliable=False)
    try:
        outcome = machine.run(guests["tsc_mode"], command_line="mode=0")
        assert outcome.passed and "ok emulated: never the same twice" in outcome.console, outcome
        outcome = machine.run(guests["tsc_mode"], command_line="mode=2", tsc_mode=TscMode.NATIVE)
        assert outcome.passed and "never the same twice" not in outcome.console, outcome
    finally:
        machine.close()
