"""``make bench``: boot time, work in the guest, single operations, disks, networks, idle guests, beside the peers' figures.

A part that fails is reported, and the others go on; the exit status tells. ``make bench-peer`` runs the parts that QEMU TCG without Xen
can run too, and prints ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boot
import disk
import idle
import micro
import network
import pexpect
import plot
import qemu
import smp
import work
from bench_host import BOOT_TIMEOUT, PROMPT, WIDTH, Bench, bench_host
from comparison import comparison_table
from guest_image import Rate, bench_ramdisk
from rich.console import Console

from pyxen.guests.packages import GuestPackages, PackageError, fetch
from pyxen.host.protocol import HostError

#: What may go wrong in a part without being the end of the others.
_FAILURES = (subprocess.SubprocessError, ValueError, KeyError, OSError, HostError, TimeoutError, pexpect.ExceptionPexpect)


class Run:
    """One run of some of the parts. ``result`` is what it measured; a part that failed is in its ``failed``."""

    def __init__(self, options: argparse.Namespace, packages: GuestPackages, bench: Bench, ramdisk: Path, console: Console) -> None:
        self._options = options
        self._packages = packages
        self._bench = bench
        self._ramdisk = ramdisk
        self._console = console
        self._compare = qemu.available() and not options.no_qemu
        self.result: dict[str, Any] = {"kernel": packages.kernel_release, "machine": _machine(), "failed": {}}

    def run(self, parts: Iterable[str]) -> None:
        for name in parts:
            what, part = PARTS[name]
            try:
                with self._console.status(what):
                    part(self)
            except _FAILURES as error:
                said = str(error.value if isinstance(error, pexpect.ExceptionPexpect) else error).strip() or type(error).__name__
                self.result["failed"][name] = said
                print(f"bench: {name}: {said}", file=sys.stderr)
                self._bench.destroy_all()

    def boot(self) -> None:
        measured = boot.measure(self._bench, self._options.runs)
        self.result["boot"] = measured.as_json()
        if self._compare:
            times = [qemu.boot(self._packages.kernel, self._ramdisk, PROMPT, BOOT_TIMEOUT) for _ in range(self._options.runs)]
            self.result["qemu_boot_s"] = statistics.median(times)
        self._console.print(boot.table(measured, self.result.get("qemu_boot_s")))
        self._console.print(boot.counters_table(measured.counters))

    def guest(self) -> None:
        """In turns, since what a shared machine gives changes from minute to minute."""
        seconds = self._options.seconds
        ways = [lambda: work.measure(self._bench, seconds, "pv"), lambda: work.measure(self._bench, seconds, "pvh")]
        if self._compare:
            ways.append(lambda: work.measure_qemu(self._packages.kernel, self._ramdisk, seconds))
        rounds = [[way() for way in ways] for _ in range(self._options.runs)]
        rates, pvh_rates, *others = (work.medians(each) for each in zip(*rounds, strict=True))
        qemu_rates = others[0] if others else None
        self._console.print(work.table(rates, pvh_rates, qemu_rates))
        self.result |= {"rates": _values(rates), "pvh_rates": _values(pvh_rates), "qemu_rates": _values(qemu_rates)}

    def micro(self) -> None:
        rates = micro.measure(self._bench)
        self._console.print(micro.table(rates))
        self.result["micro"] = {name: vars(rate) for name, rate in rates.items()}

    def vcpus(self) -> None:
        speed_ups, qemu_speed_ups = smp.measure(self._bench, self._packages.kernel, self._ramdisk, with_qemu=self._compare)
        self._console.print(smp.table(speed_ups, qemu_speed_ups))
        self.result |= {"two_vcpus": speed_ups, "qemu_two_vcpus": qemu_speed_ups}

    def disks(self) -> None:
        rates, qemu_rates = disk.measure(self._bench, self._packages, self._options.seconds, with_qemu=self._compare)
        self._console.print(comparison_table(disk.TITLE, rates, qemu_rates))
        self.result |= {"disk": _values(rates), "qemu_disk": _values(qemu_rates)}

    def networks(self) -> None:
        rates, qemu_rates = network.measure(self._bench, self._packages, self._options.seconds, with_qemu=self._compare)
        self._console.print(comparison_table(network.TITLE, rates, qemu_rates))
        self.result |= {"network": _values(rates), "qemu_network": _values(qemu_rates)}

    def idle(self) -> None:
        measured = idle.measure(self._bench, self._options.guests)
        self._console.print(idle.table(measured))
        self.result["idle"] = vars(measured)


#: Name -> what is said while it runs, and the part, in their order.
PARTS: dict[str, tuple[str, Callable[[Run], None]]] = {
    "boot": ("booting guests", Run.boot),
    "guest": ("running the benchmark programs in a guest", Run.guest),
    "micro": ("measuring single operations", Run.micro),
    "vcpus": ("the same work by one and by two vCPUs", Run.vcpus),
    "disks": ("reading and writing disks", Run.disks),
    "networks": ("sending and receiving", Run.networks),
    "idle": ("booting guests and leaving them idle", Run.idle),
}
#: What QEMU TCG without Xen can run as well.
PEER_PARTS = ("boot", "guest", "vcpus", "disks", "networks")


def _values(rates: dict[str, Rate] | None) -> dict[str, float] | None:
    return None if rates is None else {name: rate.value for name, rate in rates.items()}


def _machine() -> dict[str, Any]:
    """What the figures depend on, besides pyxen."""
    models = {line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")}
    return {
        "cpu": ", ".join(sorted(models)),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
    }


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=...", description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="boots, and rounds of work in the guest, to take the median of (3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each rate in the guest (2)")
    parser.add_argument("--guests", type=int, default=16, help="idle guests side by side; 0: none (16)")
    parser.add_argument("--no-qemu", action="store_true", help="do not run QEMU beside it even if it is installed")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"only these of {', '.join(PARTS)}")
    parser.add_argument("--peer", action="store_true", help=f"only {', '.join(PEER_PARTS)}; QEMU must be installed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them there (.svg or .png)")
    return parser


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the parts that the options name. Raises PackageError."""
    packages = fetch(console.print)
    ramdisk = bench_ramdisk(packages)
    parts = options.only or (PEER_PARTS if options.peer else PARTS)
    with bench_host(packages.kernel, ramdisk) as bench:
        run = Run(options, packages, bench, ramdisk, console)
        run.run(part for part in parts if part != "idle" or options.guests)
        return run.result


def bench_console() -> Console:
    """Of this terminal, or of a width that the tables fit in."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def main() -> int:
    options = arguments().parse_args()
    if options.peer and not qemu.available():
        print(f"bench-peer: {qemu.PROGRAM} is missing: apt install qemu-system-x86", file=sys.stderr)
        return 1
    console = bench_console()
    if not qemu.available() and not options.no_qemu:
        console.print(f"{qemu.PROGRAM} is not installed (apt install qemu-system-x86): there will be no comparison with it")
    try:
        result = measure(options, console)
    except (PackageError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    if options.plot:
        plot.draw(result, options.plot)
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
