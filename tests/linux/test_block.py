"""Debian's block frontend (the kernel's own module) on pyxen's block backend."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen.guests.packages import GuestPackages, PackageError, fetch_tool
from pyxen.guests.ramdisk import Ramdisk
from pyxen.host.protocol import BlockDevice
from tests.linux.linux_guest import LONG, BootLinux, LinuxGuest, linux_host
from tests.toolstack.xl_command import run, xl

MIB = 1 << 20
CONNECTED = 4
#: Of a storage daemon in one test: below the number in a minute after which it is not started again.
MAX_KILLS = 15


@pytest.fixture(scope="session")
def block_ramdisk(guest_packages: GuestPackages) -> Path:
    """A ramdisk with the block frontend, if it is not built into the kernel."""
    module = guest_packages.module("xen-blkfront")
    return Ramdisk(guest_packages.busybox, {"xen-blkfront.ko": module} if module else {}).cached()


@pytest.fixture
def boot_with_disks(runtime_directory: Path, guest_packages: GuestPackages, block_ramdisk: Path) -> Iterator[BootLinux]:
    """Boots guests whose block frontend is loaded."""
    with linux_host(guest_packages, block_ramdisk) as boot:

        def boot_and_load(**settings: object) -> LinuxGuest:
            guest = boot(**settings)
            if guest_packages.module("xen-blkfront"):
                guest.run("insmod /bin/xen-blkfront.ko 2>/dev/null")
            return guest

        yield boot_and_load


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """4 MiB that say where they are."""
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(4 * MIB))
    return path


@pytest.fixture
def qemu_img() -> str:
    """The program; there is a storage daemon too."""
    if shutil.which("qemu-storage-daemon") is None:
        pytest.skip("no qemu-storage-daemon")
    try:
        return shutil.which("qemu-img") or str(fetch_tool("qemu-utils") / "usr/bin/qemu-img")
    except PackageError as error:
        pytest.skip(str(error))


@pytest.fixture
def qcow2(tmp_path: Path, qemu_img: str) -> Path:
    """An empty disk of 16 MiB."""
    path = tmp_path / "disk.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", str(path), "16M"], check=True)
    return path


def digest(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5sum(guest: LinuxGuest, path: str) -> str:
    return guest.run(f"md5sum {path}", 60).split()[0]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def devices(guest: LinuxGuest) -> list[BlockDevice]:
    return guest.domain.disks


def sizes(guest: LinuxGuest) -> dict[str, int]:
    """Name -> KiB, of the disks that the guest sees."""
    rows = [line.split() for line in guest.run("cat /proc/partitions").splitlines()[2:]]
    return {row[3]: int(row[2]) for row in rows if len(row) == 4}


def test_what_the_guest_reads_and_writes_is_in_the_image(boot_with_disks: BootLinux, image: Path) -> None:
    guest = boot_with_disks(disk=[f"{image},raw,xvda,w"])
    content = image.read_bytes()
    assert sizes(guest) == {"xvda": 4096}
    assert md5sum(guest, "/dev/xvda") == digest(content)
    guest.run("dd if=/dev/urandom of=/tmp/x bs=64k count=16 2>&-")
    guest.run("dd if=/tmp/x of=/dev/xvda bs=512 seek=1001 conv=fsync 2>&-")
    written = image.read_bytes()
    start = 1001 * 512
    assert digest(written[start : start + MIB]) == md5sum(guest, "/tmp/x")
    assert written[:start] + written[start + MIB :] == content[:start] + content[start + MIB :]
    guest.run("echo 3 >/proc/sys/vm/drop_caches")
    assert md5sum(guest, "/dev/xvda") == digest(written)


def test_frontend_negotiates_what_the_backend_offers(boot_with_disks: BootLinux, image: Path) -> None:
    guest = boot_with_disks(disk=[f"{image},raw,xvda,w"])
    log = guest.run("dmesg | grep blkfront")
    assert "flush diskcache: enabled; persistent grants: enabled; indirect descriptors: enabled" in log
    [device] = devices(guest)
    assert (device.devid, device.vdev, device.target, device.writable, device.state) == (51712, "xvda", str(image), True, CONNECTED)
    assert int(guest.run("cat /sys/block/xvda/queue/discard_max_bytes")) > 0
    guest.run("blkdiscard -o 8192 -l 4096 /dev/xvda 2>&- || true")


@pytest.mark.parametrize("parameter", ["feature_persistent=0", "max_ring_page_order=4", "max_indirect_segments=256"])
def test_other_ways_to_talk(
    boot_with_disks: BootLinux, guest_packages: GuestPackages, image: Path, parameter: str, runtime_directory: Path, block_ramdisk: Path
) -> None:
    if guest_packages.module("xen-blkfront") is None:
        pytest.skip("this kernel's block frontend is built in")
    with linux_host(guest_packages, block_ramdisk) as boot:
        guest = boot(name="other", disk=[f"{image},raw,xvda,w"])
        guest.run(f"insmod /bin/xen-blkfront.ko {parameter} 2>&-")
        guest.run("dd if=/dev/urandom of=/tmp/x bs=64k count=32 2>&-")
        guest.run("dd if=/tmp/x of=/dev/xvda bs=1M conv=fsync 2>&-")
        assert digest(image.read_bytes()[: 2 * MIB]) == md5sum(guest, "/tmp/x")
        guest.run("echo 3 >/proc/sys/vm/drop_caches")
        assert md5sum(guest, "/dev/xvda") == digest(image.read_bytes())


def test_read_only_disk_and_errors(boot_with_disks: BootLinux, image: Path) -> None:
    guest = boot_with_disks(disk=[f"{image},raw,xvda,r"])
    content = image.read_bytes()
    assert guest.run("cat /sys/block/xvda/ro").strip() == "1"
    status, _ = guest.attempt("dd if=/dev/zero of=/dev/xvda count=1 2>&-")
    assert status != 0
    os.truncate(image, MIB)
    status, _ = guest.attempt("dd if=/dev/xvda of=/dev/null bs=4k skip=512 count=1 2>&-")
    # An I/O error, or the end of a disk whose new size the guest has been told of meanwhile; no hang.
    assert status != 0 or sizes(guest) == {"xvda": MIB // 1024}
    assert image.read_bytes() == content[:MIB]


def test_hot_plug_resize_and_unplug(boot_with_disks: BootLinux, image: Path, tmp_path: Path) -> None:
    guest = boot_with_disks(disk=[f"{image},raw,xvda,w"])
    second = tmp_path / "second.img"
    second.write_bytes(bytes(MIB))
    guest.domain.attach_disk(f"{second},raw,xvdb,w")
    until(lambda: sizes(guest) == {"xvda": 4096, "xvdb": 1024})
    os.truncate(second, 2 * MIB)
    until(lambda: sizes(guest)["xvdb"] == 2048)
    guest.domain.detach_disk("xvdb")
    assert sizes(guest) == {"xvda": 4096}
    assert [device.vdev for device in devices(guest)] == ["xvda"]
    guest.domain.attach_disk(f"{second},raw,xvdb,w")
    until(lambda: sizes(guest) == {"xvda": 4096, "xvdb": 2048})
    guest.domain.detach_disk("xvdb", force=True)
    assert md5sum(guest, "/dev/xvda") == digest(image.read_bytes())


def test_disks_survive_a_reboot_of_the_domain(boot_with_disks: BootLinux, image: Path) -> None:
    guest = boot_with_disks(name="again", disk=[f"{image},raw,xvda,w"])
    guest.domain.reboot()
    guest.domain.wait("destroyed", 30)
    with pyxen.Host() as host:
        deadline = time.monotonic() + 30
        while not [entry for entry in host.domains() if entry.name == "again"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        restarted = LinuxGuest(host.domain("again"))
        restarted.wait_for_prompt()
        assert [device.vdev for device in devices(restarted)] == ["xvda"]


def test_cd_drive(boot_with_disks: BootLinux, image: Path, tmp_path: Path) -> None:
    guest = boot_with_disks(name="cd", disk=["vdev=xvdc,devtype=cdrom,target="])
    (tmp_path / "second.iso").write_bytes(os.urandom(2 * MIB))
    for path in (image, tmp_path / "second.iso"):
        xl("cd-insert", "cd", "xvdc", path.name, cwd=tmp_path)
        until(lambda path=path: sizes(guest).get("xvdc") == path.stat().st_size >> 10)  # type: ignore[misc]
        assert md5sum(guest, "/dev/xvdc") == digest(path.read_bytes())
    assert guest.run("cat /sys/block/xvdc/ro").strip() == "1"
    xl("cd-eject", "cd", "xvdc")
    until(lambda: not sizes(guest).get("xvdc"))
    failed = run("xl", "cd-insert", "cd", "xvdc", "/no/such")
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)
    assert "/no/such does not exist" in failed.stderr


def test_disk_behind_the_storage_daemon(boot_with_disks: BootLinux, qcow2: Path) -> None:
    """The daemon is killed while the guest writes, reads back and compares."""
    guest = boot_with_disks(disk=[f"{qcow2},qcow2,xvda,w"])
    guest.run("dd if=/dev/urandom of=/tmp/x bs=64k count=16 2>&-")
    guest.run(
        "(for i in 0 1 2 3 4 5; do dd if=/tmp/x of=/dev/xvda bs=16k seek=$((i*64)) 2>&- || echo w >>/tmp/bad; "
        "echo 3 >/proc/sys/vm/drop_caches; "
        "dd if=/dev/xvda bs=1M skip=$i count=1 2>&- | cmp - /tmp/x || echo r >>/tmp/bad; echo >>/tmp/rounds; done) & true"
    )
    kills = 0
    while guest.run("touch /tmp/rounds; wc -l </tmp/rounds").strip() != "6":
        for pid in storage_daemons(qcow2) if kills < MAX_KILLS else ():
            os.kill(pid, signal.SIGKILL)
            kills += 1
    assert kills
    guest.run("test ! -e /tmp/bad && sync", 60)
    until(lambda: len(storage_daemons(qcow2)) == 1)
    guest.domain.destroy()
    assert not storage_daemons(qcow2)


def test_what_was_flushed_survives_the_hosts_death(boot_with_disks: BootLinux, runtime_directory: Path, qcow2: Path, qemu_img: str) -> None:
    """Each number that the guest says is on the disk is there after kill -9 of the host."""
    guest = boot_with_disks(disk=[f"{qcow2},qcow2,xvda,w"])
    guest.domain.console.send(
        "i=0; while true; do i=$((i+1)); echo number $i | dd of=/dev/xvda bs=4k seek=$((i%999)) conv=fsync 2>&- && echo done-$i-; done\n"
    )
    guest.domain.console.expect("done-30-", 60)
    with pyxen.Host() as host:
        os.kill(host.status.pid, signal.SIGKILL)
    until(lambda: not storage_daemons(qcow2))
    [log] = (runtime_directory / "log").glob("guest-linux*")
    flushed = max(int(number) for number in re.findall(r"done-(\d+)-", log.read_text()))
    assert flushed >= 30
    raw = qcow2.with_suffix(".raw")
    subprocess.run([qemu_img, "convert", "-O", "raw", str(qcow2), str(raw)], check=True)
    content = raw.read_bytes()
    for number in range(1, flushed + 1):
        assert content[number * 4096 :].startswith(b"number %d\n" % number)


def storage_daemons(path: Path) -> list[int]:
    """Process ids of those that serve an image."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if command.split(b"\0")[0].endswith(b"qemu-storage-daemon") and str(path).encode() in command:
                found.append(int(folder.name))
    return found


@pytest.mark.parametrize("vcpus", [1, 2])
def test_backend_restarted_under_load(boot_with_disks: BootLinux, image: Path, vcpus: int) -> None:
    """The guest writes, reads back and compares all the time, and knows of nothing."""
    guest = boot_with_disks(disk=[f"{image},raw,xvda,w"], vcpus=vcpus)
    assert len(guest.run("ls /sys/block/xvda/mq").split()) == vcpus
    guest.run("dd if=/dev/urandom of=/tmp/x bs=64k count=16 2>&-")
    guest.run(
        "(while [ ! -e /tmp/stop ]; do dd if=/tmp/x of=/dev/xvda bs=16k conv=fsync 2>&- || echo w >>/tmp/bad; "
        "echo 3 >/proc/sys/vm/drop_caches; head -c 1048576 /dev/xvda | cmp - /tmp/x || echo r >>/tmp/bad; echo >>/tmp/rounds; done) & true"
    )

    def rounds() -> int:
        return int(guest.run("touch /tmp/rounds; wc -l </tmp/rounds"))

    for _ in range(100 if LONG else 25):
        guest.domain.restart_backend("xvda")
        time.sleep(0.05)
    before = rounds()
    until(lambda: rounds() > before + 1)
    guest.run("touch /tmp/stop; wait; test ! -e /tmp/bad")
    assert guest.run("dmesg | grep -ci 'error\\|illegal\\|disabled for' || true").strip() == "0"
    assert digest(image.read_bytes()[:MIB]) == md5sum(guest, "/tmp/x")
    missing = run("pyxen", "backend", "restart", "linux", "xvdz")
    assert (missing.returncode, missing.stderr.count("\n")) == (1, 1)
    assert "has no device xvdz" in missing.stderr


def test_xl_block_commands(boot_with_disks: BootLinux, image: Path, tmp_path: Path) -> None:
    guest = boot_with_disks(name="blocks")
    xl("block-attach", "blocks", "disk.img", "raw", "xvda", "w", cwd=tmp_path)
    until(lambda: sizes(guest) == {"xvda": 4096})
    shown = json.loads(xl("-N", "block-attach", "blocks", "other.img", "raw", "xvdb", "r", cwd=tmp_path).removeprefix("disk:"))
    assert shown == {
        "pdev_path": str(tmp_path / "other.img"),
        "vdev": "xvdb",
        "backend": "phy",
        "format": "raw",
        "discard_enable": "True",
    }
    header, row = xl("block-list", "blocks").splitlines()
    assert header.split() == ["Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"]
    assert row.split()[:4] == ["51712", "0", str(guest.domain.domid), "4"]
    for arguments, words in (
        (("block-attach", "blocks", f"{image},raw,xvdb,w"), "in use by another domain"),
        (("block-attach", "blocks", "/no/such,raw,xvdb,w"), "/no/such does not exist"),
        (("block-attach", "blocks", f"{image},qcow2,xvdb,w!"), "needs a raw image"),
        (("block-attach", "blocks", f"{image},raw,xyz,w"), "xyz"),
        (("block-detach", "blocks", "xvdb"), "Device xvdb not connected."),
        (("block-list", "nobody"), "nobody is an invalid domain identifier"),
    ):
        failed = run("xl", *arguments)
        assert failed.returncode == 1
        assert words in failed.stderr
        assert failed.stderr.count("\n") == 1
    xl("block-detach", "blocks", "xvda")
    assert xl("block-list", "blocks").count("\n") == 1
    assert sizes(guest) == {}


def test_image_of_a_running_domain_is_refused_to_a_second_one(boot_with_disks: BootLinux, image: Path) -> None:
    boot_with_disks(name="first", disk=[f"{image},raw,xvda,w"])
    with pytest.raises(pyxen.HostError, match="in use by another domain"):
        boot_with_disks(name="second", disk=[f"{image},raw,xvda,w"])
    with pyxen.Host() as host:
        assert [entry.name for entry in host.domains()] == ["first"]
