"""The benchmarks' ramdisk, and the reading of what its programs print."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyxen.guests.packages import GuestPackages
from pyxen.guests.ramdisk import Ramdisk

SOURCES = Path(__file__).parent / "guest"
#: Name in /bin of the guest -> source.
PROGRAMS = {"bench": "bench.c", "bench-true": "true.c"}


@dataclass(frozen=True)
class Rate:
    """One line of results."""

    value: float
    unit: str


def bench_ramdisk(packages: GuestPackages) -> Path:
    """The demo's ramdisk with the benchmark programs, compiled now: ``bench=1`` on the kernel's command line runs them."""
    return Ramdisk(packages.busybox, {name: _compile(SOURCES / source) for name, source in PROGRAMS.items()}).cached()


def _compile(source: Path) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch) / "program"
        subprocess.run(["gcc", "-O2", "-static", "-s", "-o", program, source], check=True)
        return program.read_bytes()


def parse(console: str) -> dict[str, Rate]:
    """The rates in a guest's console output. Raises ValueError if the run did not reach its end."""
    if "BENCH_END" not in console:
        raise ValueError(f"the guest's benchmark did not finish; the console ends with: {console[-300:]!r}")
    lines = re.findall(r"^BENCH (\w+) (\S+) (\S+)", console, re.MULTILINE)
    return {name: Rate(float(value), unit) for name, value, unit in lines if not name.endswith("_time")}
