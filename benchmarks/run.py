"""``make bench``: boot time, work in the guest, and what idle guests cost, printed beside the peers' figures.

Every guest is started as a user starts it, by ``xl create`` from a configuration file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import disk
import network
import pexpect
import qemu
import smp
from comparison import comparison_table
from guest_image import Rate, bench_ramdisk, parse
from peer import BARE_QEMU, XEN_IN_QEMU
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pyxen.guests.packages import GuestPackages, PackageError, fetch

PROMPT = "guest# "
BOOT_TIMEOUT = 180.0
IDLE_SECONDS = 10.0
IDLE_MEMORY_MB = 96
#: Of the tables when they do not go to a terminal.
WIDTH = 120
#: After the prompt a guest still has work of its start to do.
SETTLE_SECONDS = 5.0
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Idle:
    """What guests cost that sit at their prompt."""

    guests: int
    memory_overhead_mib: float  #: per guest, beyond the guest's own RAM
    cpu_percent: float  #: of one core, per guest


class Bench:
    """``xl`` and ``pyxen`` of this environment, with a host of their own."""

    def __init__(self, directory: Path, kernel: Path, ramdisk: Path) -> None:
        self._directory = directory
        self._kernel = kernel
        self._ramdisk = ramdisk
        self._environment = os.environ | {"PYXEN_RUNTIME_DIR": str(directory / "run")}
        self._programs = Path(sys.executable).parent

    def create(
        self,
        name: str,
        memory_mb: int,
        switches: str = "",
        *,
        ramdisk: Path | None = None,
        keys: str = "",
        vcpus: int = 1,
        kind: str = "pv",
    ) -> pexpect.spawn[str]:
        """Start ``xl create -c`` and return its terminal. ``keys``: more lines of the configuration."""
        configuration = self._directory / f"{name}.cfg"
        configuration.write_text(
            f'name = "{name}"\ntype = "{kind}"\nkernel = "{self._kernel}"\nramdisk = "{ramdisk or self._ramdisk}"\n'
            f"memory = {memory_mb}\nvcpus = {vcpus}\n"
            f'extra = "console=hvc0 quiet {switches}"\non_poweroff = "destroy"\non_crash = "destroy"\n{keys}\n'
        )
        arguments = ["create", "-c", str(configuration)]
        program = str(self._programs / "xl")
        return pexpect.spawn(
            program, arguments, env=self._environment, timeout=BOOT_TIMEOUT, encoding="utf-8", codec_errors="replace", dimensions=(40, 200)
        )

    def destroy(self, name: str, terminal: pexpect.spawn[str]) -> None:
        """End a guest and its terminal."""
        subprocess.run([self._programs / "xl", "destroy", name], env=self._environment, check=True)
        terminal.close(force=True)

    def stop_host(self) -> None:
        """Stop the host with all its guests."""
        subprocess.run([self._programs / "pyxen", "host", "stop"], env=self._environment, check=False, capture_output=True)

    @property
    def directory(self) -> Path:
        return self._directory

    def boot(self, name: str, memory_mb: int = 256) -> tuple[float, pexpect.spawn[str]]:
        """Create a guest; seconds from ``xl create`` to its prompt, and its terminal."""
        started = time.monotonic()
        terminal = self.create(name, memory_mb)
        terminal.expect_exact(PROMPT)
        return time.monotonic() - started, terminal

    def host_process(self) -> Path:
        """The host's folder in /proc."""
        return Path("/proc") / (self._directory / "run" / "host.pid").read_text().split()[0]

    def anonymous_mib(self) -> float:
        """The host's memory without the machine memory, which is shared memory and holds the guests' RAM."""
        fields = dict(line.split(":", 1) for line in (self.host_process() / "status").read_text().splitlines())
        return int(fields["RssAnon"].split()[0]) / 1024

    def cpu_seconds(self) -> float:
        """CPU time that the host has used."""
        fields = (self.host_process() / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def measure_boot(bench: Bench, runs: int) -> tuple[float, list[float]]:
    """Seconds to the prompt: of the first guest, which also starts the host, and of those after it."""
    times = []
    for number in range(runs + 1):
        seconds, terminal = bench.boot(f"boot{number}")
        times.append(seconds)
        bench.destroy(f"boot{number}", terminal)
    return times[0], times[1:]


def measure_guest(bench: Bench, seconds: float, kind: str) -> dict[str, Rate]:
    """What the benchmark programs reach in a guest of this type."""
    terminal = bench.create(f"work-{kind}", 256, f"bench=1 benchsec={seconds:g} halt=1", kind=kind)
    terminal.timeout = BOOT_TIMEOUT + 60 * seconds
    terminal.expect(pexpect.EOF)
    console = str(terminal.before).replace("\r", "")
    terminal.close()
    return parse(console)


def measure_idle(bench: Bench, guests: int) -> Idle:
    """Boot guests one after another, leave them alone, and look at the host process."""
    memory_before = bench.anonymous_mib()
    terminals = []
    for number in range(guests):
        terminals.append(bench.boot(f"idle{number}", IDLE_MEMORY_MB)[1])
    time.sleep(SETTLE_SECONDS)
    cpu_before = bench.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    cpu = bench.cpu_seconds() - cpu_before
    memory = bench.anonymous_mib() - memory_before
    for number, terminal in enumerate(terminals):
        bench.destroy(f"idle{number}", terminal)
    return Idle(guests, memory / guests, 100 * cpu / IDLE_SECONDS / guests)


def boot_table(first: float, later: list[float], qemu_seconds: float | None) -> Table:
    table = Table(title="Boot: Debian's kernel and a busybox ramdisk, 256 MB, to the shell's prompt", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "seconds", "peer's seconds", "times as fast"):
        table.add_column(heading, justify="left" if not heading else "right")
    median = statistics.median(later)
    peer = XEN_IN_QEMU.boot
    table.add_row(f"xl create (median of {len(later)})", f"{median:.2f}", f"{peer:.2f}", f"{peer / median:.2f}")
    table.add_row("xl create, starts the host", f"{first:.2f}", f"{peer:.2f}", f"{peer / first:.2f}")
    if qemu_seconds is not None:
        table.add_row("QEMU TCG without Xen, here", f"{qemu_seconds:.2f}", f"{BARE_QEMU.boot:.2f}", f"{BARE_QEMU.boot / qemu_seconds:.2f}")
    table.caption = f"peer: {XEN_IN_QEMU.name}; last line: {BARE_QEMU.name}; both from the development machine"
    return table


def guest_table(rates: dict[str, Rate], pvh_rates: dict[str, Rate], qemu_rates: dict[str, Rate] | None) -> Table:
    table = Table(title="In the guest (bench.c)", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    others = {XEN_IN_QEMU.name: XEN_IN_QEMU.rates, BARE_QEMU.name: BARE_QEMU.rates}
    if qemu_rates is not None:
        others["QEMU TCG, here"] = {name: rate.value for name, rate in qemu_rates.items()}
    for heading in ("unit", "pyxen PV", "pyxen PVH", *others):
        table.add_column(heading, justify="right")
    for name in XEN_IN_QEMU.rates:
        rate = rates[name]
        compared = (f"{_figure(other[name])} ({rate.value / other[name]:5.2f})" for other in others.values())
        table.add_row(name, rate.unit, _figure(rate.value), _figure(pvh_rates[name].value), *compared)
    table.caption = "in brackets: the PV rate divided by it. Not measured here: from the development machine"
    return table


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def idle_table(idle: Idle) -> Table:
    table = Table(title=f"{idle.guests} idle guests of {IDLE_MEMORY_MB} MB", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("per guest")
    table.add_column("", justify="right")
    table.add_row("memory beyond the guest's own RAM", f"{idle.memory_overhead_mib:.1f} MiB")
    table.add_row("CPU", f"{idle.cpu_percent:.2f} % of a core")
    return table


@contextlib.contextmanager
def bench_host(kernel: Path, ramdisk: Path) -> Iterator[Bench]:
    """A bench in a folder of its own; the host is stopped and the folder removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pyxen-bench-", dir="/tmp"))  # short: Unix sockets are in it
    bench = Bench(directory, kernel, ramdisk)
    try:
        yield bench
    finally:
        bench.stop_host()
        shutil.rmtree(directory, ignore_errors=True)


def measure(options: argparse.Namespace, packages: GuestPackages, console: Console) -> dict[str, Any]:
    ramdisk = bench_ramdisk(packages)
    compare = qemu.available() and not options.no_qemu
    result: dict[str, Any] = {"kernel": packages.kernel_release}
    with bench_host(packages.kernel, ramdisk) as bench:
        with console.status("booting guests"):
            first, later = measure_boot(bench, options.runs)
        qemu_seconds = qemu.boot(packages.kernel, ramdisk, PROMPT, BOOT_TIMEOUT) if compare else None
        console.print(boot_table(first, later, qemu_seconds))
        result |= {"boot_with_host_start_s": first, "boot_s": later, "qemu_boot_s": qemu_seconds}

        with console.status("running the benchmark programs in a guest"):
            rates = measure_guest(bench, options.seconds, "pv")
            pvh_rates = measure_guest(bench, options.seconds, "pvh")
        switches = f"bench=1 benchsec={options.seconds:g} halt=1"
        qemu_rates = parse(qemu.run(packages.kernel, ramdisk, switches, BOOT_TIMEOUT + 60 * options.seconds)) if compare else None
        console.print(guest_table(rates, pvh_rates, qemu_rates))
        result["rates"] = {name: rate.value for name, rate in rates.items()}
        result["pvh_rates"] = {name: rate.value for name, rate in pvh_rates.items()}
        result["qemu_rates"] = qemu_rates and {name: rate.value for name, rate in qemu_rates.items()}

        with console.status("the same work by one and by two vCPUs"):
            speed_ups, qemu_speed_ups = smp.measure(bench, packages.kernel, ramdisk, with_qemu=compare)
        console.print(smp.table(speed_ups, qemu_speed_ups))
        result |= {"two_vcpus": speed_ups, "qemu_two_vcpus": qemu_speed_ups}

        with console.status("reading and writing disks"):
            disk_rates, qemu_disk_rates = disk.measure(bench, packages, options.seconds, with_qemu=compare)
        console.print(comparison_table(disk.TITLE, disk_rates, qemu_disk_rates))
        result["disk"] = {name: rate.value for name, rate in disk_rates.items()}
        result["qemu_disk"] = qemu_disk_rates and {name: rate.value for name, rate in qemu_disk_rates.items()}

        with console.status("sending and receiving"):
            network_rates, qemu_network_rates = network.measure(bench, packages, options.seconds, with_qemu=compare)
        console.print(comparison_table(network.TITLE, network_rates, qemu_network_rates))
        result["network"] = {name: rate.value for name, rate in network_rates.items()}
        result["qemu_network"] = qemu_network_rates and {name: rate.value for name, rate in qemu_network_rates.items()}

        if options.guests:
            with console.status(f"booting {options.guests} guests and leaving them idle"):
                idle = measure_idle(bench, options.guests)
            console.print(idle_table(idle))
            result["idle"] = vars(idle)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=...", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="boots to take the median of (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each rate in the guest (2)")
    parser.add_argument("--guests", type=int, default=16, help="idle guests side by side; 0: none (16)")
    parser.add_argument("--no-qemu", action="store_true", help="do not run QEMU beside it even if it is installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    options = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    try:
        result = measure(options, fetch(console.print), console)
    except (PackageError, subprocess.CalledProcessError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except pexpect.ExceptionPexpect as error:
        print(f"bench: the guest did not do what was expected within the time: {error.value}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
