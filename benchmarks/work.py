"""What the same programs reach in a PV guest, in a PVH guest, and on QEMU TCG without Xen (guest/bench.c)."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path

import pexpect
import qemu
from bench_host import BOOT_TIMEOUT, Bench
from guest_image import Rate, parse
from peer import BARE_QEMU, XEN_IN_QEMU
from rich.box import SIMPLE_HEAD
from rich.table import Table


def measure(bench: Bench, seconds: float, kind: str) -> dict[str, Rate]:
    """In a guest of this type; ``seconds`` for each rate."""
    terminal = bench.create(f"work-{kind}", 256, _switches(seconds), kind=kind)
    terminal.timeout = BOOT_TIMEOUT + 60 * seconds
    terminal.expect(pexpect.EOF)
    console = str(terminal.before).replace("\r", "")
    terminal.close()
    return parse(console)


def measure_qemu(kernel: Path, ramdisk: Path, seconds: float) -> dict[str, Rate]:
    """Without Xen."""
    return parse(qemu.run(kernel, ramdisk, _switches(seconds), BOOT_TIMEOUT + 60 * seconds))


def medians(runs: Iterable[dict[str, Rate]]) -> dict[str, Rate]:
    """Of each rate."""
    runs = list(runs)
    return {name: Rate(statistics.median(run[name].value for run in runs), rate.unit) for name, rate in runs[0].items()}


def _switches(seconds: float) -> str:
    return f"bench=1 benchsec={seconds:g} benchscale={2 * seconds:g} halt=1"


def table(rates: dict[str, Rate], pvh_rates: dict[str, Rate], qemu_rates: dict[str, Rate] | None) -> Table:
    table = Table(title="In the guest (bench.c)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    others = {XEN_IN_QEMU.name: XEN_IN_QEMU.rates, BARE_QEMU.name: BARE_QEMU.rates}
    if qemu_rates is not None:
        others["QEMU TCG, here"] = {name: rate.value for name, rate in qemu_rates.items()}
    for heading in ("unit", "pyxen PV", "pyxen PVH", *others):
        table.add_column(heading, justify="right")
    for name in XEN_IN_QEMU.rates:
        rate = rates[name]
        compared = (f"{figure(other[name])} ({rate.value / other[name]:5.2f})" for other in others.values())
        table.add_row(name, rate.unit, figure(rate.value), figure(pvh_rates[name].value), *compared)
    table.caption = "in brackets: the PV rate divided by it. Not measured here: from the development machine"
    return table


def figure(value: float) -> str:
    """Three digits of a small number, all of a large one."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
