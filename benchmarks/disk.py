"""A guest's disk, on a raw file of the host: the same program, kernel and file on pyxen and on QEMU TCG with virtio."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pexpect
import qemu
from guest_image import VIRTIO_MODULES, Rate, disk_ramdisk, parse
from rich.box import SIMPLE_HEAD
from rich.table import Table

from pyxen.guests.packages import GuestPackages

if TYPE_CHECKING:
    from run import Bench

PROMPT = "guest# "
IMAGE_MIB = 256
TIMEOUT = 120.0


def measure(bench: Bench, packages: GuestPackages, seconds: float, *, with_qemu: bool) -> tuple[dict[str, Rate], dict[str, Rate] | None]:
    """Rates on pyxen, and on QEMU with virtio if wanted."""
    ramdisk = disk_ramdisk(packages)
    image = bench.directory / "disk.img"
    # Of the temporary folder's file system, written once: neither side has to make the file's blocks.
    with image.open("wb") as file:
        for _ in range(IMAGE_MIB):
            file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
    try:
        terminal = bench.create("disk", 256, ramdisk=ramdisk, keys=f'disk = ["{image},raw,xvda,w"]')
        rates = _run(terminal, ["xen-blkfront"], "/dev/xvda", seconds)
        bench.destroy("disk", terminal)
        if not with_qemu:
            return rates, None
        devices = ["-drive", f"file={image},format=raw,if=none,id=d", "-device", "virtio-blk-pci,drive=d"]
        terminal = qemu.shell(packages.kernel, ramdisk, devices, TIMEOUT)
        with contextlib.closing(terminal):
            return rates, _run(terminal, list(VIRTIO_MODULES), "/dev/vda", seconds)
    finally:
        image.unlink()


def _run(terminal: pexpect.spawn[str], modules: list[str], device: str, seconds: float) -> dict[str, Rate]:
    terminal.timeout = TIMEOUT + 10 * seconds
    terminal.expect_exact(PROMPT)
    for module in modules:
        terminal.sendline(f"insmod /bin/{module}.ko 2>/dev/null")
        terminal.expect_exact(PROMPT)
    terminal.sendline(f"for i in 1 2 3 4 5; do [ -b {device} ] || sleep 1; done; disk {device} {seconds:g}; echo ended")
    terminal.expect(r"ended\r*\n.*?ended\r*\n|\nended\r*\n")
    return parse((str(terminal.before) + str(terminal.after)).replace("\r", ""))


def table(rates: dict[str, Rate], qemu_rates: dict[str, Rate] | None) -> Table:
    table = Table(title=f"Disk: a raw file of {IMAGE_MIB} MiB, O_DIRECT in the guest (disk.c)", title_justify="left", box=SIMPLE_HEAD)
    for heading in ("", "unit", "pyxen", *(["QEMU TCG with virtio", "pyxen / QEMU"] if qemu_rates else [])):
        table.add_column(heading, justify="right" if heading else "left")
    for name, rate in rates.items():
        figures = [rate.value, qemu_rates[name].value] if qemu_rates else [rate.value]
        ratio = [f"{figures[0] / figures[1]:.2f}"] if qemu_rates else []
        table.add_row(name, rate.unit, *(f"{figure:,.0f}" for figure in figures), *ratio)
    return table


def main() -> None:
    """Only this: python benchmarks/disk.py [SECONDS]."""
    import sys

    from guest_image import bench_ramdisk
    from rich.console import Console
    from run import bench_host

    from pyxen.guests.packages import fetch

    packages = fetch()
    with bench_host(packages.kernel, bench_ramdisk(packages)) as bench:
        seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
        Console(width=120).print(table(*measure(bench, packages, seconds, with_qemu=qemu.available())))


if __name__ == "__main__":
    main()
