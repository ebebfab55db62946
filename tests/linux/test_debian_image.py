"""A Debian in a domain: an image that `pyxen image build` made, booted to systemd, used, and switched off or cut off."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages, fetch_tool
from pyxen.host.protocol import HOST_STATUS, Nothing
from tests.linux.debian_guest import BOOT_LIMIT, built_image, content, copied, fsck, logged_in, power_off
from tests.linux.host_services import iperf3_server, served
from tests.linux.linux_guest import LONG
from tests.toolstack.xl_command import xl

EXAMPLES = Path(__file__).parents[2] / "examples"

pytestmark = [pytest.mark.timeout(900)]
only_long = pytest.mark.skipif(not LONG, reason="takes minutes; PYXEN_LONG=1 runs it")


@pytest.fixture(scope="session")
def debian_image() -> Path:
    return built_image()


@pytest.fixture
def disk(debian_image: Path, tmp_path: Path) -> Path:
    """A copy of the image that the test may write to."""
    return copied(debian_image, tmp_path / "debian.img")


def test_grub_boots_the_installed_debian(runtime_directory: Path, guest_packages: GuestPackages, disk: Path) -> None:
    """By the file in examples/, which looks for debian.img in the current folder."""
    assert fsck(disk, "-fn") == 0
    with pyxen.Host() as host:
        xl("create", str(EXAMPLES / "debian-grub.cfg"), f'kernel="{guest_packages.grub_x86_64_xen}"', cwd=disk.parent)
        guest = logged_in(host.domain("debian-grub"))
        assert guest.run("nproc") == "2\n"
        assert guest.run("ps -p 1 -o comm= 2>/dev/null || cat /proc/1/comm") == "systemd\n"
        assert guest.run("systemctl --failed --no-legend --plain") == ""
        assert guest.run("findmnt -no SOURCE /") == "/dev/xvda\n"
        guest.run("head -c 3000000 /dev/urandom >/root/noise; md5sum /root/noise >/root/sum")
        power_off(guest)
    assert fsck(disk, "-fn") == 0
    [digest] = re.findall(rb"[0-9a-f]{32}", content(disk, "/root/sum"))
    assert hashlib.md5(content(disk, "/root/noise"), usedforsecurity=False).hexdigest().encode() == digest


@only_long
def test_it_runs_as_pvh_by_one_line(runtime_directory: Path, disk: Path) -> None:
    """The same image and configuration, with another type; and with more processors."""
    with pyxen.Host() as host:
        xl("create", str(EXAMPLES / "debian-pygrub.cfg"), 'type="pvh"', "vcpus=4", cwd=disk.parent)
        guest = logged_in(host.domain("debian-pygrub"))
        assert guest.run("cat /sys/hypervisor/guest_type; nproc") == "PVH\n4\n"
        assert guest.run("systemctl --failed --no-legend --plain") == ""
        guest.run("for n in 0 1 2 3; do taskset -c $n md5sum /usr/bin/python3 /usr/bin/perl 2>/dev/null; done", 120)
        assert guest.run("head -c 3000000 /dev/urandom >/root/noise; sync; dmesg | grep -cE 'BUG:|WARNING:|Call Trace' || true") == "0\n"
        power_off(guest)
    assert fsck(disk, "-fn") == 0


@only_long
def test_pygrub_boots_it_again_and_again(runtime_directory: Path, disk: Path) -> None:
    """A reboot reads the disk anew."""
    with pyxen.Host() as host:
        xl("create", str(EXAMPLES / "debian-pygrub.cfg"), cwd=disk.parent)
        first = host.domain("debian-pygrub")
        guest = logged_in(first)
        guest.run("sed -i 's/console=hvc0/console=hvc0 mark=second/' /boot/grub/grub.cfg; sync")
        first.console.send("reboot\n")
        first.wait("destroyed", BOOT_LIMIT)
        deadline = time.monotonic() + 60
        while "debian-pygrub" not in [entry.name for entry in host.domains()]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        guest = logged_in(host.domain("debian-pygrub"))
        assert "mark=second" in guest.run("cat /proc/cmdline")
        power_off(guest)
    assert fsck(disk, "-fn") == 0


@only_long
def test_kill_9_in_the_middle_of_writes(runtime_directory: Path, guest_packages: GuestPackages, disk: Path) -> None:
    """The journal repairs the file system, and every file that the guest knew to be on the disk is there, whole."""
    with pyxen.Host() as host:
        domain = host.create(name="debian", kernel=str(guest_packages.grub_x86_64_xen), memory=512, vcpus=2, disk=[f"{disk},raw,xvda,w"])
        guest = logged_in(domain)
        guest.run("mkdir /root/w; (while :; do head -c 200000 /dev/urandom >/root/w/noise; done) >/dev/null 2>&1 & :")
        loop = "i=0; while :; do i=$((i+1)); seq $i $((i+2000)) >/root/w/f$i; sync /root/w/f$i /root/w; echo safe $i; done"
        domain.console.send(f"{loop}\n")
        domain.console.expect(r"safe 25\r", 120)
        pid = host._client.call(HOST_STATUS, Nothing()).pid
        os.kill(pid, signal.SIGKILL)
        safe = 25
        with pytest.raises(pyxen.HostError):
            while True:
                safe = int(domain.console.expect(r"safe ([0-9]+)\r", 30)[1])
    assert fsck(disk, "-p") in (0, 1)  # replays the journal, and repairs what needs no asking: nothing else
    assert fsck(disk, "-fn") == 0
    for number in range(1, safe + 1):
        assert content(disk, f"/root/w/f{number}") == b"".join(b"%d\n" % line for line in range(number, number + 2001))


@only_long
def test_fio_checks_what_it_wrote(runtime_directory: Path, guest_packages: GuestPackages, disk: Path) -> None:
    with pyxen.Host() as host:
        domain = host.create(name="debian", kernel=str(guest_packages.grub_x86_64_xen), memory=512, vcpus=2, disk=[f"{disk},raw,xvda,w"])
        guest = logged_in(domain)
        job = (
            "--name=j --directory=/root --size=64M --bs=4k --direct=1 --ioengine=libaio --iodepth=16 --rw=randrw --verify=crc32c --fsync=64"
        )
        report = guest.run(f"fio {job} --output-format=terse", 600)
        assert report.split(";")[4] == "0", report
        power_off(guest)
    assert fsck(disk, "-fn") == 0


def make_package(folder: Path) -> None:
    """A package "from-the-host", and what apt needs to know of it, as a flat repository."""
    tree = folder / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/share").mkdir(parents=True)
    (tree / "usr/share/from-the-host").write_bytes(random.Random(5).randbytes(2_000_000))
    control = "Package: from-the-host\nVersion: 1\nArchitecture: all\nMaintainer: Nobody <nobody@example.org>\nDescription: a test\n"
    (tree / "DEBIAN/control").write_text(control)
    archive = folder / "from-the-host_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", tree, archive], check=True, stdout=subprocess.DEVNULL)
    content = archive.read_bytes()
    place = f"Filename: ./{archive.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n"
    (folder / "Packages").write_text(control + place)


@only_long
def test_apt_and_iperf3_over_the_nat(runtime_directory: Path, disk: Path, tmp_path: Path) -> None:
    """A package from a web server on this machine's loopback, which the guest knows as 10.0.2.2."""
    fetch_tool("passt")
    repository = tmp_path / "repository"
    make_package(repository)
    with pyxen.Host() as host, served(repository) as port, iperf3_server() as iperf3_port:
        domain = host.create(
            name="debian", bootloader="pygrub", memory=512, vcpus=2, disk=[f"{disk},raw,xvda,w"], vif=[""], on_reboot="destroy"
        )
        guest = logged_in(domain)
        guest.run("for i in $(seq 60); do ip -4 route | grep -q default && break; sleep 1; done; ip -4 addr | grep 10.0.2.15", 120)
        guest.run(f"echo 'deb [trusted=yes] http://10.0.2.2:{port} ./' >/root/local.list")
        only = "-q -o Dir::Etc::SourceList=/root/local.list -o Dir::Etc::SourceParts=-"
        guest.run(f"apt-get {only} update", BOOT_LIMIT)
        guest.run(f"apt-get {only} -y install from-the-host", BOOT_LIMIT)
        digest = hashlib.md5(random.Random(5).randbytes(2_000_000), usedforsecurity=False).hexdigest()
        assert guest.run("md5sum /usr/share/from-the-host").split()[0] == digest
        for direction in ("", "--reverse"):
            report = json.loads(guest.run(f"iperf3 -c 10.0.2.2 -p {iperf3_port} -t 3 --json {direction}", 120))
            assert report["end"]["sum_received"]["bytes"] > 1_000_000
        power_off(guest)
    assert fsck(disk, "-fn") == 0
