"""What guests cost that sit at their prompt."""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench_host import Bench
from rich.box import SIMPLE_HEAD
from rich.table import Table

IDLE_SECONDS = 10.0
IDLE_MEMORY_MB = 96
#: After the prompt a guest still has work of its start to do, and the host keeps a kernel for some seconds.
SETTLE_SECONDS = 15.0


@dataclass(frozen=True)
class Idle:
    """Of each of so many guests."""

    guests: int
    memory_overhead_mib: float  #: beyond the guest's own RAM
    cpu_percent: float  #: of one core
    exits_per_second: float


def measure(bench: Bench, guests: int) -> Idle:
    """Boot guests one after another, leave them alone, and look at the host process: a new one, which has no memory of other guests to give
    back."""
    bench.stop_host()
    with bench.client():
        memory_before = bench.anonymous_mib()
    terminals = []
    for number in range(guests):
        terminals.append(bench.boot(f"idle{number}", IDLE_MEMORY_MB)[1])
    time.sleep(SETTLE_SECONDS)
    cpu_before, exits_before = bench.cpu_seconds(), _exits(bench, guests)
    time.sleep(IDLE_SECONDS)
    cpu = bench.cpu_seconds() - cpu_before
    exits = _exits(bench, guests) - exits_before
    memory = bench.anonymous_mib() - memory_before
    for number, terminal in enumerate(terminals):
        bench.destroy(f"idle{number}", terminal)
    return Idle(guests, memory / guests, 100 * cpu / IDLE_SECONDS / guests, exits / IDLE_SECONDS / guests)


def _exits(bench: Bench, guests: int) -> int:
    counters = [bench.domain(f"idle{number}").counters for number in range(guests)]
    return sum(sum(counted.exits.values()) for counted in counters if counted is not None)


def table(idle: Idle) -> Table:
    table = Table(title=f"{idle.guests} idle guests of {IDLE_MEMORY_MB} MB", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("per guest")
    table.add_column("", justify="right")
    table.add_row("memory beyond the guest's own RAM", f"{idle.memory_overhead_mib:.1f} MiB")
    table.add_row("CPU", f"{idle.cpu_percent:.2f} % of a core")
    table.add_row("exits served in Python", f"{idle.exits_per_second:.1f} a second")
    return table
