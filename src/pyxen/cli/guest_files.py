"""The demo guest's files, under names that stay the same: for ``pyxen demo`` and for the files in ``examples/``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pyxen.guests.packages import GuestPackages, cache_directory, fetch
from pyxen.guests.ramdisk import Ramdisk


@dataclass(frozen=True)
class GuestFiles:
    """Debian's kernel, a ramdisk with busybox, and GRUB as a PV kernel."""

    kernel: Path
    ramdisk: Path
    grub: Path


def guest_files(packages: GuestPackages | None = None) -> GuestFiles:
    """The files in the cache, fetched if they are not there; ``<cache>/demo/`` has links to them.

    Raises ``pyxen.guests.packages.PackageError``.
    """
    packages = fetch() if packages is None else packages
    folder = cache_directory() / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    files = GuestFiles(folder / "vmlinuz", folder / "ramdisk.cpio", folder / "grub-x86_64-xen.bin")
    _link(files.kernel, packages.kernel)
    _link(files.ramdisk, Ramdisk(packages.busybox).cached())
    _link(files.grub, packages.grub_x86_64_xen)
    return files


def _link(link: Path, target: Path) -> None:
    """Point the link to the target; another process that reads it meanwhile finds the old target or the new one."""
    if link.is_symlink() and Path(os.readlink(link)) == target:
        return
    partial = link.with_name(f".{link.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(link)
