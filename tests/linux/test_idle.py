"""Guests with nothing to do take next to nothing of the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.linux.linux_guest import LONG, BootLinux

GUESTS = 16 if LONG else 3
#: Of one core, for each guest.
MOST_CPU_PERCENT = 3.0
#: The window in which CPU time is counted, in seconds; and how long a guest has to come to rest after its prompt.
WINDOW = 10.0
SETTLE = 5.0


def host_cpu_seconds(runtime_directory: Path) -> float:
    """CPU time of the host process: all vCPUs' and Domain 0's."""
    pid = (runtime_directory / "host.pid").read_text().split()[0]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.long
@pytest.mark.timeout(120 + 40 * GUESTS)
def test_idle_guests_side_by_side(boot_linux: BootLinux, runtime_directory: Path) -> None:
    guests = [boot_linux(name=f"idle{number}", memory=96) for number in range(GUESTS)]
    time.sleep(SETTLE)
    before = host_cpu_seconds(runtime_directory)
    time.sleep(WINDOW)
    used = host_cpu_seconds(runtime_directory) - before
    assert 100 * used / WINDOW / GUESTS < MOST_CPU_PERCENT
    for number, guest in enumerate(guests):
        assert guest.run(f"echo {number}") == f"{number}\n"
