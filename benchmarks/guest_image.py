"""The benchmarks' ramdisk, and the reading of what its programs print."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pyxen.guests.packages import GuestPackages, fetch_tool
from pyxen.guests.ramdisk import Ramdisk

SOURCES = Path(__file__).parent / "guest"
#: In the order of their loading.
VIRTIO_MODULES = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
NETWORK_MODULES = (*VIRTIO_MODULES[:-1], "failover", "net_failover", "virtio_net")
NETWORK_FILES = tuple(f"*/{name}.ko" for name in NETWORK_MODULES)
VIRTIO_FILES = tuple(f"*/{name}.ko" for name in VIRTIO_MODULES)
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


def disk_ramdisk(packages: GuestPackages) -> Path:
    """The demo's ramdisk with the disk benchmark and the drivers of both kinds of disk, as far as they are modules."""
    programs = {"disk": _compile(SOURCES / "disk.c")}
    module = packages.module("xen-blkfront")
    if module is not None:
        programs["xen-blkfront.ko"] = module
        root = fetch_tool(f"linux-image-{packages.kernel_release}", files=VIRTIO_FILES)
        for name in VIRTIO_MODULES:
            programs[f"{name}.ko"] = next(root.glob(f"**/{name}.ko")).read_bytes()
    return Ramdisk(packages.busybox, programs).cached()


def network_ramdisk(packages: GuestPackages) -> Path:
    """The demo's ramdisk with the network benchmark and the drivers of both kinds of network, as far as they are modules."""
    programs = {"net": compile_program("net.c")}
    module = packages.module("xen-netfront")
    if module is not None:
        programs["xen-netfront.ko"] = module
        root = fetch_tool(f"linux-image-{packages.kernel_release}", files=NETWORK_FILES)
        for name in NETWORK_MODULES:
            programs[f"{name}.ko"] = next(root.glob(f"**/{name}.ko")).read_bytes()
    return Ramdisk(packages.busybox, programs).cached()


def compile_program(name: str) -> bytes:
    """A static executable of one of the guest's sources."""
    return _compile(SOURCES / name)


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
