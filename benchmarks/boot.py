"""From ``xl create`` to the prompt of Debian's kernel, and what the boot did: exits, hypercalls, flushes, and the stages of its start."""

from __future__ import annotations

import dataclasses
import statistics
from dataclasses import dataclass
from typing import Any

from bench_host import Bench
from peer import BARE_QEMU, XEN_IN_QEMU
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pyxen.host.client import Client
from pyxen.host.protocol import DOMAIN_TIMELINE, DomainId, ExitCounters, StageTime


@dataclass(frozen=True)
class Boot:
    """Seconds to the prompt: of the first guest, which also starts the host, and of those after it."""

    first: float
    later: list[float]
    counters: ExitCounters
    stages: list[StageTime]  #: of the last boot

    def as_json(self) -> dict[str, Any]:
        begin = self.stages[0].time_s
        return {
            "with_host_start_s": self.first,
            "runs_s": self.later,
            "median_s": statistics.median(self.later),
            "counters": dataclasses.asdict(self.counters),
            "python_exits": sum(self.counters.exits.values()),
            "native_share": native_share(self.counters),
            "stages_ms": {stage.stage: round(1e3 * (stage.time_s - begin), 2) for stage in self.stages},
        }


def measure(bench: Bench, runs: int) -> Boot:
    """Boot one guest after the other."""
    times = []
    for number in range(runs + 1):
        name = f"boot{number}"
        seconds, terminal = bench.boot(name)
        times.append(seconds)
        domain = bench.domain(name)
        with bench.client() as client:
            stages = _stages(client, domain.domid)
        bench.destroy(name, terminal)
    assert domain.counters is not None
    return Boot(times[0], times[1:], domain.counters, stages)


def _stages(client: Client, domid: int) -> list[StageTime]:
    """Those that a running domain has reached."""
    stages = []
    with client.stream(DOMAIN_TIMELINE, DomainId(domid)) as events:
        for stage in events:
            stages.append(stage)
            if not stage.more:
                break
    return sorted(stages, key=lambda stage: stage.time_s)


def native_share(counters: ExitCounters) -> float:
    """Of the traps and hypercalls, how many never left the engine."""
    native = sum(counters.native.values()) + sum(counters.native_hypercalls.values())
    return native / (native + sum(counters.exits.values()))


def table(boot: Boot, qemu_seconds: float | None) -> Table:
    table = Table(title="Boot: Debian's kernel and a busybox ramdisk, 256 MB, to the shell's prompt", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "seconds", "peer's seconds", "times as fast"):
        table.add_column(heading, justify="left" if not heading else "right")
    median = statistics.median(boot.later)
    peer = XEN_IN_QEMU.boot
    table.add_row(f"xl create (median of {len(boot.later)})", f"{median:.2f}", f"{peer:.2f}", f"{peer / median:.2f}")
    table.add_row("xl create, starts the host", f"{boot.first:.2f}", f"{peer:.2f}", f"{peer / boot.first:.2f}")
    if qemu_seconds is not None:
        table.add_row("QEMU TCG without Xen, here", f"{qemu_seconds:.2f}", f"{BARE_QEMU.boot:.2f}", f"{BARE_QEMU.boot / qemu_seconds:.2f}")
        table.add_row("QEMU TCG without Xen, here / xl create", f"{qemu_seconds / median:.2f}", "", "")
    table.caption = f"peer: {XEN_IN_QEMU.name}; third line: {BARE_QEMU.name}; both from the development machine"
    return table


def counters_table(counters: ExitCounters) -> Table:
    """The largest of each kind."""
    table = Table(title="What one boot did", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    table.add_column("count", justify="right")
    table.add_column("most of them")
    for title, counts in (
        ("exits, served in Python", counters.exits),
        ("hypercalls in Python", counters.hypercalls),
        ("traps served in the engine", counters.native),
        ("hypercalls served in the engine", counters.native_hypercalls),
    ):
        most = sorted(counts.items(), key=lambda item: -item[1])[:4]
        table.add_row(title, f"{sum(counts.values()):,}", ", ".join(f"{name} {count:,}" for name, count in most))
    table.add_row("whole TLB flushes asked for", f"{counters.tlb_flushes:,}", "")
    table.caption = f"{100 * native_share(counters):.1f} % of traps and hypercalls never left the engine"
    return table
