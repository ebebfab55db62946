"""The package cache: what is in it, and what a user reads when it cannot be filled."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyxen.guests import packages
from pyxen.guests.packages import GuestPackages, PackageError, fetch
from pyxen.guests.ramdisk import Ramdisk


def test_everything_named_is_there(guest_packages: GuestPackages) -> None:
    assert guest_packages.kernel.name.endswith(guest_packages.kernel_release)
    assert guest_packages.busybox.is_file()
    assert guest_packages.grub_x86_64_xen.read_bytes()[:4] == b"\x7fELF"
    assert (guest_packages.xen_headers / "xen" / "xen.h").is_file()
    environment = os.environ | {"LD_LIBRARY_PATH": str(guest_packages.library_path), "XENSTORED_PATH": "/nonexistent"}
    listing = subprocess.run([guest_packages.xenstore_utils / "xenstore-ls"], env=environment, capture_output=True, text=True, check=False)
    assert "error while loading shared libraries" not in listing.stderr


def test_a_filled_cache_needs_no_apt(guest_packages: GuestPackages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert fetch() == guest_packages


def test_an_incomplete_cache_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / ".pyxen-packages.json").write_text(f'{{"layout": {packages.LAYOUT}, "packages": {{"busybox-static": "1"}}}}')
    monkeypatch.setenv("PYXEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PackageError, match="apt-get not found"):
        fetch()


def broken_tool(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n")
    (directory / name).chmod(0o755)


def test_without_network_one_line_says_so_and_nothing_is_left(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    broken_tool(tools, "apt-get", 'echo "E: Failed to fetch http://mirror/Packages  Could not resolve mirror" >&2; exit 100')
    cache = tmp_path / "cache"
    environment = os.environ | {"PATH": f"{tools}:{os.environ['PATH']}", "PYXEN_CACHE_DIR": str(cache)}
    run = subprocess.run([sys.executable, "-m", "pyxen.guests"], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    error = run.stderr.splitlines()[-1]
    assert error.startswith("pyxen: cannot fetch the package lists: Failed to fetch http://mirror/Packages")
    assert not (cache / "root").exists()
    assert not list(cache.glob("unpack.*"))


def test_unusable_cache_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYXEN_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(PackageError, match="PYXEN_CACHE_DIR"):
        fetch()


def test_several_at_once_fill_the_cache_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes' worth of callers: flock is per open file, so threads with files of their own contend in the same way."""
    fills = []

    def fill(cache: Path, selection: object, report: packages.Report) -> GuestPackages:
        fills.append(cache)
        boot = cache / "root" / "boot"
        boot.mkdir(parents=True)
        (boot / "vmlinuz-1").write_text("")
        names = ", ".join(f'"{name}": "1"' for name in packages.PLAIN_PACKAGES)
        (cache / "root" / ".pyxen-packages.json").write_text(
            f'{{"layout": {packages.LAYOUT}, "kernel_release": "1", "packages": {{{names}}}}}'
        )
        return GuestPackages(cache / "root", boot / "vmlinuz-1", "1")

    monkeypatch.setattr(packages, "_fill", fill)
    monkeypatch.setenv("PYXEN_CACHE_DIR", str(tmp_path))
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: fetch(), range(8)))
    assert len(fills) == 1
    assert len(set(results)) == 1


def test_ramdisk_is_cached_by_content(guest_packages: GuestPackages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYXEN_CACHE_DIR", str(tmp_path))
    plain = Ramdisk(guest_packages.busybox).cached()
    written = plain.stat().st_mtime_ns
    assert Ramdisk(guest_packages.busybox).cached() == plain
    assert plain.stat().st_mtime_ns == written
    assert Ramdisk(guest_packages.busybox, {"extra": b"x"}).cached() != plain
