"""Debian's own kernel as a PVH domain: the same kernel, ramdisk, store, console and commands as for PV."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import GuestPackages
from pyxen.guests.ramdisk import Ramdisk
from tests.linux.engine_counters import check_that_ticks_stay_in_the_engine, counters, needs_the_gate
from tests.linux.linux_guest import BootLinux, LinuxGuest, linux_host

TROUBLE = re.compile(r"(?im)^.*(?:\bWARNING:|\bBUG:|Call Trace|general protection|segfault|\bstall|lockup).*$")


@pytest.fixture(scope="module")
def pvh(shared_runtime_directory: Path, guest_packages: GuestPackages, demo_ramdisk: Path) -> Iterator[LinuxGuest]:
    """A PVH guest with two vCPUs for all tests of the module."""
    with linux_host(guest_packages, demo_ramdisk) as boot:
        yield boot(type="pvh", vcpus=2)


def test_linux_knows_that_it_is_pvh(pvh: LinuxGuest) -> None:
    assert pvh.run("cat /sys/hypervisor/guest_type") == "PVH\n"
    log = pvh.run("dmesg | grep -i xen")
    assert "Booting kernel on Xen PVH" in log
    assert "Xen HVM callback vector for event delivery is enabled" in log


def test_no_complaint_in_the_kernels_log(pvh: LinuxGuest) -> None:
    assert TROUBLE.findall(pvh.run("dmesg")) == []


def test_both_processors_work(pvh: LinuxGuest) -> None:
    assert pvh.run("nproc") == "2\n"
    pvh.run("taskset 1 true && taskset 2 true")
    timers = re.findall(r"(?m)^.*virq +timer[01]$", pvh.run("cat /proc/interrupts"))
    assert len(timers) == 2


def test_time_comes_from_xen(pvh: LinuxGuest) -> None:
    assert pvh.run("cat /sys/devices/system/clocksource/*/current_clocksource") == "xen\n"


@needs_the_gate
def test_ticks_of_a_busy_guest_do_not_leave_the_engine(pvh: LinuxGuest) -> None:
    check_that_ticks_stay_in_the_engine(pvh)


@needs_the_gate
def test_processes_start_without_python(pvh: LinuxGuest) -> None:
    """Each asks CPUID some twenty times."""
    pvh.run("/bin/busybox true")  # until the answers are known
    before = counters(pvh)
    pvh.run("for i in $(seq 50); do /bin/busybox true; done")
    after = counters(pvh)
    native, exits = (after[kind] - before[kind] for kind in ("native", "exits"))
    assert native["cpuid"] > 500, native
    assert exits["cpuid"] < 100, exits


def test_memory_is_what_was_asked_for(pvh: LinuxGuest) -> None:
    match = re.search(r"MemTotal: +(\d+) kB", pvh.run("cat /proc/meminfo"))
    assert match is not None
    assert 180 * 1024 < int(match[1]) <= 256 * 1024


def test_the_acpi_tables_are_read(pvh: LinuxGuest) -> None:
    log = pvh.run("dmesg | grep ACPI")
    for table in ("RSDP", "XSDT", "FACP", "DSDT", "APIC"):
        assert f"ACPI: {table} 0x" in log
    assert not re.search(r"(?i)ACPI (BIOS )?(Error|Warning|Exception)", log)


def test_power_off_in_the_guest_ends_the_domain(boot_linux: BootLinux) -> None:
    guest = boot_linux(type="pvh")
    guest.domain.console.send("poweroff\n")
    guest.domain.wait("destroyed", 30)


def test_pv_and_pvh_side_by_side(boot_linux: BootLinux) -> None:
    first, second = boot_linux("first", wait=False), boot_linux("second", type="pvh")
    first.wait_for_prompt()
    first.run("dmesg -n 1")
    assert first.run("cat /sys/hypervisor/guest_type") == "PV\n"
    assert second.run("cat /sys/hypervisor/guest_type") == "PVH\n"
    second.domain.destroy()
    assert first.run("echo still here") == "still here\n"


def test_a_disk_on_the_same_backend(runtime_directory: Path, guest_packages: GuestPackages, tmp_path: Path) -> None:
    """Grants of a PVH guest's frames, mapped by the block backend: what is read and written is what is in the image."""
    image = tmp_path / "disk.img"
    content = os.urandom(4 << 20)
    image.write_bytes(content)
    module = guest_packages.module("xen-blkfront")
    ramdisk = Ramdisk(guest_packages.busybox, {"xen-blkfront.ko": module} if module else {}).cached()
    with linux_host(guest_packages, ramdisk) as boot:
        guest = boot(type="pvh", disk=[f"{image},raw,xvda,w"])
        if module:
            guest.run("insmod /bin/xen-blkfront.ko 2>/dev/null")
        guest.run("until [ -b /dev/xvda ]; do sleep 0.1; done")
        assert guest.run("sha256sum </dev/xvda").split()[0] == hashlib.sha256(content).hexdigest()
        guest.run("echo written | dd of=/dev/xvda bs=512 conv=sync seek=2 2>/dev/null; sync")
        guest.domain.console.send("poweroff\n")
        guest.domain.wait("destroyed", 30)
    assert image.read_bytes()[1024:1032] == b"written\n"
