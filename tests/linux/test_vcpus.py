"""Linux with two vCPUs, on one physical CPU and on two: it boots, takes vCPUs off and on, and sees what was stolen from it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages
from tests.linux.linux_guest import BootLinux, LinuxGuest, linux_host

pytestmark = pytest.mark.timeout(240)
HOT_PLUG_S = 30.0


@contextmanager
def linux_on(cpus: int, packages: GuestPackages, ramdisk: Path) -> Iterator[BootLinux]:
    """A host with so many physical CPUs."""
    with pyxen.Host(cpus=cpus), linux_host(packages, ramdisk) as boot:
        yield boot


def online(guest: LinuxGuest) -> str:
    return guest.run("cat /sys/devices/system/cpu/online").strip()


def wait_for_online(guest: LinuxGuest, wanted: str) -> None:
    """The guest's kernel follows the store in its own time."""
    deadline = time.monotonic() + HOT_PLUG_S
    while online(guest) != wanted:
        assert time.monotonic() < deadline, f"CPUs {online(guest)} are online, not {wanted}:\n{guest.run('dmesg | tail -n 20')}"
        time.sleep(0.2)


def stolen(guest: LinuxGuest) -> int:
    """Of all its vCPUs, in hundredths of a second."""
    return int(guest.run("head -n 1 /proc/stat").split()[8])


@pytest.mark.parametrize(("cpus", "kind"), [(1, "pv"), (2, "pv"), (2, "pvh")])
def test_hot_plug(runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path, cpus: int, kind: str) -> None:
    with linux_on(cpus, guest_packages, demo_ramdisk) as boot:
        guest = boot(vcpus=2, type=kind)
        assert online(guest) == "0-1"
        guest.domain.set_vcpus(1)
        wait_for_online(guest, "0")
        assert [vcpu.online for vcpu in guest.domain.vcpus] == [True, False]
        guest.domain.set_vcpus(2)
        # The kernel only makes it present; to use it is for user space (udev, where there is one).
        guest.run("until echo 1 > /sys/devices/system/cpu/cpu1/online; do sleep 0.2; done 2> /dev/null", timeout=HOT_PLUG_S)
        wait_for_online(guest, "0-1")
        # Both do work, and what one writes the other reads.
        assert guest.run("(i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done; echo a > /tmp/a) & wait; cat /tmp/a") == "a\n"
        assert all(vcpu.cpu_time_s > 0 for vcpu in guest.domain.vcpus)


def test_stolen_time(runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path) -> None:
    """Two vCPUs that both want the one physical CPU: each waits half of the time, and Linux knows."""
    with linux_on(1, guest_packages, demo_ramdisk) as boot:
        guest = boot(vcpus=2)
        before = stolen(guest)
        guest.run("(while :; do :; done) & (while :; do :; done) & sleep 3; kill $!; kill %1; wait", timeout=60)
        after = stolen(guest)
        assert after - before > 150, f"{(after - before) / 100} s stolen"
        waited = sum(vcpu.runnable_s for vcpu in guest.domain.vcpus)
        assert waited > 1.5
