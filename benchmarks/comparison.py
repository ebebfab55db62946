"""Rates of a guest beside those of the same program on QEMU: how they are printed, and a benchmark of such rates run by itself."""

from __future__ import annotations

import sys
from typing import Protocol

import qemu
from bench_host import WIDTH, Bench, bench_host
from guest_image import Rate, bench_ramdisk
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pyxen.guests.packages import GuestPackages, fetch


class Measure(Protocol):
    """Rates on pyxen, and on QEMU with virtio if wanted; ``seconds`` for each."""

    def __call__(
        self, bench: Bench, packages: GuestPackages, seconds: float, *, with_qemu: bool
    ) -> tuple[dict[str, Rate], dict[str, Rate] | None]: ...


def comparison_table(title: str, rates: dict[str, Rate], qemu_rates: dict[str, Rate] | None) -> Table:
    """A line for each rate."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "unit", "pyxen", *(["QEMU TCG with virtio", "pyxen / QEMU"] if qemu_rates else [])):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rate in rates.items():
        figures = [rate.value, qemu_rates[name].value] if qemu_rates else [rate.value]
        ratio = [f"{figures[0] / figures[1]:.2f}"] if qemu_rates else []
        table.add_row(name, rate.unit, *(f"{figure:,.0f}" for figure in figures), *ratio)
    return table


def run_alone(title: str, measure: Measure) -> None:
    """A benchmark's own command line: [SECONDS]."""
    packages = fetch()
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
    with bench_host(packages.kernel, bench_ramdisk(packages)) as bench:
        rates = measure(bench, packages, seconds, with_qemu=qemu.available())
        Console(width=WIDTH).print(comparison_table(title, *rates))
