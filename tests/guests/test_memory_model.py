"""The programs that look for what several vCPUs must never see, run for long, with the histograms of what they saw.

Without PYXEN_LONG they run as briefly as in ``test_guests``: a hundred million rounds take tens of minutes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.guests.build import Program, all_programs
from tests.guests.machine import Machine

LONG = os.environ.get("PYXEN_LONG") == "1"
#: How many times the rounds of a short run, by program. In all more than a hundred million rounds.
SCALES = {
    "litmus_two": 250,
    "litmus_four": 100,
    "locked_operations": 100,
    "code_patching": 50,
    "tlb_shootdown": 20,
    "accessed_dirty": 40,
    "time_monotonic": 20,
    "ipi_storm": 20,
}
TIMEOUT_S = 1800.0


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S + 60)
@pytest.mark.skipif(not LONG, reason="test_guests runs the same programs briefly; PYXEN_LONG=1 runs them for long")
@pytest.mark.parametrize("program", [program for program in all_programs() if program.name in SCALES], ids=lambda program: program.name)
def test_for_long(program: Program, guests: dict[str, Path], machine: Machine) -> None:
    outcome = machine.run(
        guests[program.name],
        memory_mib=program.memory_mib,
        vcpus=program.vcpus,
        timeout_s=TIMEOUT_S,
        command_line=f"scale={SCALES[program.name]}",
    )
    print("\n".join(line for line in outcome.console.splitlines() if line.startswith(("HISTOGRAM", "NOTE", "MET"))))
    assert outcome.passed, str(outcome)
