"""A guest's disk, on a raw file of the host: the same program, kernel and file on pyxen and on QEMU TCG with virtio."""

from __future__ import annotations

import contextlib
import os

import pexpect
import qemu
from bench_host import Bench
from comparison import run_alone
from guest_image import VIRTIO_MODULES, Rate, disk_ramdisk, parse

from pyxen.guests.packages import GuestPackages

PROMPT = "guest# "
IMAGE_MIB = 256
TIMEOUT = 120.0
TITLE = f"Disk: a raw file of {IMAGE_MIB} MiB, O_DIRECT in the guest (disk.c)"


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


if __name__ == "__main__":
    # Only this: python benchmarks/disk.py [SECONDS]
    run_alone(TITLE, measure)
