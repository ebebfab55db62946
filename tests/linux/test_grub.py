"""GRUB's PV image: a guest that is not Linux, with page tables and a console driver of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages

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
    with pyxen.Host() as host:
        domain = host.create(name="grub", type="pvh", kernel=str(guest_packages.grub_i386_xen_pvh), memory=64, on_poweroff="destroy")
        domain.console.expect("grub> ", 60)
        domain.console.send("echo hello\n")
        domain.console.expect("\n\rhello\n", 10)
        domain.console.send("halt\n")
        domain.wait("destroyed", 30)
