"""Debian's 32-bit kernel (linux-image-686-pae, i386) as a PVH domain; 32-bit processes on both kernels."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen.guests.packages import GuestPackages, PackageError, fetch, fetch_tool
from pyxen.guests.ramdisk import Ramdisk
from tests.linux.disk_and_network import disk_and_file
from tests.linux.linux_guest import LONG, BootLinux, LinuxGuest
from tests.linux.network_guest import network_host, network_ramdisk
from tests.linux.test_pvh import TROUBLE

BOOTS = 20
needs_time = pytest.mark.skipif(not LONG, reason="PYXEN_LONG=1 only")
#: The kernel's tests of its cryptography take a 32-bit processor most of its start; one test has them.
SHORT = "console=hvc0 cryptomgr.notests"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="session")
def i386_packages() -> GuestPackages:
    """Debian's kernel and busybox for i386; Ubuntu has no such kernel."""
    try:
        return fetch(architecture="i386")
    except PackageError as error:
        if "have no kernel package" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """``programs/thirty_two_bit.c``; it needs no 32-bit library."""
    path = tmp_path_factory.mktemp("program") / "thirty-two-bit"
    source = Path(__file__).parent / "programs/thirty_two_bit.c"
    options = ["-m32", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pic", "-no-pie", "-mno-sse", "-O1"]
    subprocess.run(["gcc", *options, "-o", str(path), str(source)], check=True)
    return path.read_bytes()


@pytest.fixture(scope="session")
def i386_ramdisk(i386_packages: GuestPackages, program: bytes) -> Path:
    """With the drivers of disks and networks, and the program."""
    fetch_tool("passt")
    module = i386_packages.module("xen-blkfront")
    more = {"xen-blkfront.ko": module} if module is not None else {}
    return network_ramdisk(i386_packages, **more, **{"thirty-two-bit": program})


@pytest.fixture
def boot(runtime_directory: Path, i386_packages: GuestPackages, i386_ramdisk: Path) -> Iterator[BootLinux]:
    """Boots the 32-bit kernel."""
    with network_host(i386_packages, i386_ramdisk) as boot_and_load:

        def boot_pvh(name: str = "linux", **settings: object) -> LinuxGuest:
            return boot_and_load(name, **({"type": "pvh", "vif": [], "cmdline": SHORT} | settings))

        yield boot_pvh


def check(guest: LinuxGuest) -> None:
    """It is what it should be, and its kernel complains of nothing."""
    assert guest.run("uname -m") == "i686\n"
    assert guest.run("cat /sys/hypervisor/guest_type") == "PVH\n"
    assert TROUBLE.findall(guest.run("dmesg")) == []


def test_two_processors_a_disk_and_a_network(boot: BootLinux, tmp_path: Path) -> None:
    with disk_and_file(tmp_path) as outside:
        guest = boot(vcpus=2, memory=320, disk=outside.disk, vif=["mac=00:16:3e:11:22:33"])
        check(guest)
        assert guest.run("nproc") == "2\n"
        assert len(re.findall(r"(?m)^.*virq +timer[01]$", guest.run("taskset 1 true && taskset 2 true; cat /proc/interrupts"))) == 2
        assert guest.run("cat /sys/devices/system/clocksource/*/current_clocksource") == "xen\n"
        outside.use(guest, "written")
        assert guest.run("thirty-two-bit").splitlines()[-1] == "all done"
        check(guest)
        outside.power_off(guest, "written")


def test_one_processor_with_the_kernels_own_tests(boot: BootLinux) -> None:
    guest = boot(cmdline="console=hvc0")
    check(guest)
    assert guest.run("nproc; echo $((6 * 7))") == "1\n42\n"
    start, end = (float(guest.run(f"{wait} cut -d' ' -f1 /proc/uptime")) for wait in ("", "sleep 2;"))
    assert 2 <= end - start < 10


@needs_time
def test_memory_beyond_four_gigabytes(boot: BootLinux) -> None:
    """PAE: frame numbers of more than 20 bits, high memory in page tables and grants."""
    guest = boot(memory=4608)
    assert int(guest.run("grep MemTotal /proc/meminfo").split()[1]) > 4_200_000
    assert int(guest.run("grep HighTotal /proc/meminfo").split()[1]) > 3_000_000
    guest.run("mount -t tmpfs -o size=700m tmpfs /tmp; dd if=/dev/urandom of=/tmp/a bs=1M count=64 2>&-", 60)
    assert guest.run("cp /tmp/a /tmp/b; cmp /tmp/a /tmp/b && echo same", 60) == "same\n"
    check(guest)


def test_processes_of_32_bits_on_the_64_bit_kernel(
    runtime_directory: Path, guest_packages: GuestPackages, program: bytes, boot_linux: BootLinux
) -> None:
    ramdisk = Ramdisk(guest_packages.busybox, {"thirty-two-bit": program}).cached()
    guest = boot_linux(type="pvh", ramdisk=str(ramdisk))
    assert guest.run("uname -m") == "x86_64\n"
    assert guest.run("thirty-two-bit").splitlines()[-1] == "all done"


@needs_time
@pytest.mark.timeout(120 + 90 * BOOTS)
def test_boots_in_a_row(boot: BootLinux, tmp_path: Path) -> None:
    """Each with two processors, a disk and a network, and uses them."""
    with disk_and_file(tmp_path) as outside:
        for number in range(BOOTS):
            guest = boot(name=f"boot{number}", vcpus=2, disk=outside.disk, vif=[""])
            outside.use(guest, f"boot{number}")
            assert guest.run("nproc") == "2\n"
            check(guest)
            outside.power_off(guest, f"boot{number}")
