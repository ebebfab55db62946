"""GRUB's PV image: a guest that is not Linux, with page tables and a console driver of its own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from pyxen.guests.ramdisk import Ramdisk
from tests.linux.linux_guest import LinuxGuest

pytestmark = pytest.mark.guest


def test_grub_reaches_its_prompt_and_obeys(runtime_directory: Path, guest_packages: GuestPackages) -> None:
    with pyxen.Host() as host:
        domain = host.create(name="grub", kernel=str(guest_packages.grub_x86_64_xen), memory=64, on_poweroff="destroy")
        domain.console.expect("grub> ", 60)
        domain.console.send("echo hello\n")
        # GRUB echoes a key with cursor movements around it, so this is the output of the command.
        domain.console.expect("\n\rhello\n", 10)
        domain.console.send("halt\n")
        domain.wait("destroyed", 30)


def test_grub_as_a_32_bit_pvh_kernel(runtime_directory: Path, guest_packages: GuestPackages) -> None:
    """An ELF32 kernel: its hypercalls, its shared info page and its event channels are those of 32-bit code."""
    assert guest_packages.grub_i386_xen_pvh.is_file()
    with pyxen.Host() as host:
        domain = host.create(name="grub", type="pvh", firmware="pvgrub32", memory=64, on_poweroff="destroy")
        domain.console.expect("grub> ", 60)
        domain.console.send("echo hello\n")
        domain.console.expect("\n\rhello\n", 10)
        domain.console.send("halt\n")
        domain.wait("destroyed", 30)


def test_grub_of_32_bits_starts_the_64_bit_kernel(runtime_directory: Path, guest_packages: GuestPackages, tmp_path: Path) -> None:
    """By its disk and its menu. What the first kernel left (event channels, grants, a 32-bit shared info page) is the second's start."""
    folder = tmp_path / "root"
    (folder / "boot/grub").mkdir(parents=True)
    shutil.copy(guest_packages.kernel, folder / "vmlinuz")
    shutil.copy(Ramdisk(guest_packages.busybox).cached(), folder / "ramdisk")
    (folder / "boot/grub/grub.cfg").write_text("linux /vmlinuz console=hvc0\ninitrd /ramdisk\nboot\n")
    image = tmp_path / "disk.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(folder), str(image), "64M"], check=True)
    with pyxen.Host() as host:
        domain = host.create(name="grub", type="pvh", firmware="pvgrub64", memory=256, disk=[f"{image},raw,xvda,w"])
        guest = LinuxGuest(domain)
        guest.wait_for_prompt()
        guest.run("dmesg -n 1; stty columns 250")
        assert guest.run("uname -m; cat /sys/hypervisor/guest_type") == "x86_64\nPVH\n"
        assert guest.run("dmesg | grep -cE 'BUG:|WARNING:|Call Trace' || true") == "0\n"
