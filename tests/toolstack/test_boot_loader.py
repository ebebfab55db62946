"""``bootloader="pygrub"`` from ``create`` on: the guests are kernels of a few instructions on disks of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen import ErrorKind, HostError
from pyxen.guests.disk_files import find_program
from pyxen.host.protocol import HOST_STATUS, Nothing
from tests.toolstack.tiny_kernels import IDLE, shutdown, write_kernel

pytestmark = pytest.mark.timeout(60)

POWEROFF = 0


@pytest.fixture
def host(runtime_directory: Path) -> Iterator[pyxen.Host]:
    with pyxen.Host(runtime_directory, memory=512) as host:
        yield host


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """Two kernels: the default one idles, the other one shuts down."""
    root = tmp_path / "root"
    (root / "boot/grub").mkdir(parents=True)
    write_kernel(root / "boot", IDLE, "idle")
    write_kernel(root / "boot", shutdown(POWEROFF), "off")
    (root / "boot/broken").write_text("no kernel")
    entries = "".join(f"menuentry '{name}' {{\n linux /boot/{name} root=/dev/xvda\n}}\n" for name in ("idle", "off", "broken", "missing"))
    (root / "boot/grub/grub.cfg").write_text(entries)
    image = tmp_path / "disk.img"
    make = [find_program("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-d", str(root), str(image), "16M"]
    subprocess.run(make, check=True, stdout=subprocess.DEVNULL)
    return image


def open_files(host: pyxen.Host) -> int:
    return len(os.listdir(f"/proc/{host._client.call(HOST_STATUS, Nothing()).pid}/fd"))


def settings(disk: Path, /, **others: object) -> dict[str, object]:
    return {"name": "booted", "bootloader": "pygrub", "memory": 32, "disk": [f"{disk},raw,xvda,w"]} | others


def test_the_default_entry_and_another_one(host: pyxen.Host, disk: Path) -> None:
    with host.create(**settings(disk)) as domain:  # type: ignore[arg-type]
        assert domain.info.memory_kib == 32 << 10
    with host.create(**settings(disk, bootloader_args=["--entry=off"], on_poweroff="preserve")) as domain:  # type: ignore[arg-type]
        domain.wait("shutdown", 20)
    with host.create(**settings(disk, bootloader="/usr/bin/pygrub", kernel="/boot/off", on_poweroff="preserve")) as domain:  # type: ignore[arg-type]
        domain.wait("shutdown", 20)


def test_a_failure_is_one_line_and_leaves_nothing(host: pyxen.Host, disk: Path, tmp_path: Path) -> None:
    before = open_files(host)
    for others, words in (
        ({"bootloader_args": ["--entry=broken"]}, f"kernel /boot/broken: .* \\(on the disk {disk}\\)"),
        ({"bootloader_args": ["--entry=missing"]}, f"bootloader: disk {disk}: /boot/missing is not there"),
        ({"bootloader_args": ["--entry=none"]}, "no entry 'none'; it has: 'idle', 'off'"),
        ({"disk": []}, "no disk to boot from"),
        ({"disk": [f"{tmp_path}/none.img,raw,xvda,w"]}, "No such file"),
        ({"bootloader": "/bin/true"}, '"/bin/true" is not supported yet; use bootloader = "pygrub"'),
    ):
        with pytest.raises(HostError, match=words) as caught:
            host.create(**settings(disk, **others))  # type: ignore[arg-type]
        assert caught.value.kind in (ErrorKind.INVALID, ErrorKind.UNSUPPORTED)
        assert "\n" not in str(caught.value)
        assert "/proc/self" not in str(caught.value)
        assert host.domains() == []
    assert open_files(host) == before
