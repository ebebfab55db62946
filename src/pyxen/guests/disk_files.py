"""Disk images that are made without root: a file system from a folder, and other formats than raw."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from pyxen.guests.packages import Report, fetch_tool

#: mke2fs knows features that GRUB 2.06 doesn't, and other versions have other defaults: these are the file system's, everywhere.
_FEATURES = """\
[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext4 = {
    features = has_journal,extent,huge_file,flex_bg,metadata_csum,64bit,dir_nlink,extra_isize
}
"""


class ImageError(Exception):
    """An image can't be made. The message is one line for the user: what failed and what to do about it."""


def find_program(name: str, package: str) -> str:
    """The path of a program, which users often have only in root's PATH. Raises ImageError with the package to install."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")))
    if path is None:
        raise ImageError(f"{name} not found: install the package {package}")
    return path


class FileSystemMaker:
    """Makes ext4 file systems from folders, without mounting them. ``scratch``: a folder for the configuration of mke2fs."""

    def __init__(self, scratch: Path) -> None:
        self._mke2fs = find_program("mke2fs", "e2fsprogs")
        self._configuration = scratch / "mke2fs.conf"

    def command(self, folder: Path, image: Path, size: int, uuid: str, label: str) -> list[str]:
        """What makes ``image`` of ``size`` bytes with the content of ``folder``; run it in ``environment()``."""
        options = f"hash_seed={uuid},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0"
        return [
            self._mke2fs,
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            label,
            "-U",
            uuid,
            "-E",
            options,
            "-d",
            str(folder),
            str(image),
            f"{size >> 10}k",
        ]

    def environment(self) -> dict[str, str]:
        """With SOURCE_DATE_EPOCH set, its time is the file system's."""
        self._configuration.write_text(_FEATURES)
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        return {"MKE2FS_CONFIG": str(self._configuration)} | ({"E2FSPROGS_FAKE_TIME": epoch} if epoch else {})


def find_qemu_img(report: Report) -> str:
    """QEMU's tool for images: the machine's, or unpacked for us alone if the machine has its libraries. Raises ImageError, PackageError."""
    installed = shutil.which("qemu-img")
    if installed:
        return installed
    unpacked = str(fetch_tool("qemu-utils", report) / "usr/bin/qemu-img")
    if subprocess.run([unpacked, "--version"], stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
        raise ImageError("qemu-img not found: install the package qemu-utils")
    return unpacked


def convert(qemu_img: str, raw: Path, image: Path, image_format: str) -> None:
    """Write a raw image in another format of QEMU's. Raises ImageError."""
    command = [qemu_img, "convert", "-f", "raw", "-O", image_format, str(raw), str(image)]
    finished = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    if finished.returncode:
        reason = finished.stderr.strip().splitlines()[-1:] or [f"status {finished.returncode}"]
        raise ImageError(f"qemu-img failed: {reason[0]}")
