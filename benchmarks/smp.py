"""What a second vCPU brings: the same two jobs one after the other and side by side, in one guest; and beside it QEMU TCG with two."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path

import pexpect
import qemu
from bench_host import WIDTH, Bench, bench_host
from rich.box import SIMPLE_HEAD
from rich.table import Table

PROMPT = "guest# "
TIMEOUT = 240.0
VCPUS = 2
RUNS = 3
#: What each job is, as a shell script.
JOBS = {
    "gzip of 2 MB": "gzip -c /tmp/data >/dev/null",
    "100 processes": "for i in $(seq 100); do /bin/bench-true; done",
}


def measure(bench: Bench, kernel: Path, ramdisk: Path, *, with_qemu: bool) -> tuple[dict[str, list[float]], dict[str, list[float]] | None]:
    """-> for each job the seconds of two in a row and of two at once; the same on QEMU if wanted."""
    terminal = bench.create("smp", 256, ramdisk=ramdisk, vcpus=VCPUS)
    figures = _run(terminal)
    bench.destroy("smp", terminal)
    if not with_qemu:
        return figures, None
    terminal = qemu.shell(kernel, ramdisk, ["-accel", "tcg,thread=multi", "-smp", str(VCPUS)], TIMEOUT)
    with contextlib.closing(terminal):
        return figures, _run(terminal)


def _run(terminal: pexpect.spawn[str]) -> dict[str, list[float]]:
    terminal.timeout = TIMEOUT
    terminal.expect_exact(PROMPT)
    _seconds(terminal, "cat /bin/busybox >/tmp/data")
    figures = {}
    for name, job in JOBS.items():
        _seconds(terminal, f"echo '{job}' >/tmp/job")
        in_a_row = statistics.median(_seconds(terminal, "sh /tmp/job; sh /tmp/job") for _ in range(RUNS))
        at_once = statistics.median(_seconds(terminal, "sh -c 'sh /tmp/job & sh /tmp/job & wait'") for _ in range(RUNS))
        figures[name] = [in_a_row, at_once]
    return figures


def _seconds(terminal: pexpect.spawn[str], command: str) -> float:
    """Until the prompt is back."""
    started = time.monotonic()
    terminal.sendline(f"{command}; echo =$?=")
    terminal.expect(r"=0=\r*\n")
    seconds = time.monotonic() - started
    terminal.expect_exact(PROMPT)
    return seconds


def table(figures: dict[str, list[float]], qemu_figures: dict[str, list[float]] | None) -> Table:
    table = Table(title=f"Two jobs by {VCPUS} vCPUs (median of {RUNS})", title_justify="left", box=SIMPLE_HEAD)
    for heading in (
        "",
        "in a row, s",
        "at once, s",
        "speed-up",
        *(["QEMU TCG: in a row, s", "at once, s", "speed-up"] if qemu_figures else []),
    ):
        table.add_column(heading, justify="right" if heading else "left")
    for name, pair in figures.items():
        cells = [f"{pair[0]:.2f}", f"{pair[1]:.2f}", f"{pair[0] / pair[1]:.2f}"]
        if qemu_figures:
            other = qemu_figures[name]
            cells += [f"{other[0]:.2f}", f"{other[1]:.2f}", f"{other[0] / other[1]:.2f}"]
        table.add_row(name, *cells)
    return table


def main() -> None:
    """Only this: python benchmarks/smp.py."""
    from guest_image import bench_ramdisk
    from rich.console import Console

    from pyxen.guests.packages import fetch

    packages = fetch()
    ramdisk = bench_ramdisk(packages)
    with bench_host(packages.kernel, ramdisk) as bench:
        Console(width=WIDTH).print(table(*measure(bench, packages.kernel, ramdisk, with_qemu=qemu.available())))


if __name__ == "__main__":
    main()
