"""Ramdisk files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyxen.toolstack.builder import RamdiskError, open_ramdisk


def test_chunks(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    content = os.urandom(1 << 20) * 33 + b"tail"
    path.write_bytes(content)
    ramdisk = open_ramdisk(path)
    assert ramdisk.size == len(content)
    chunks = list(ramdisk.chunks())
    assert b"".join(chunks) == content
    assert all(len(chunk) % 4096 == 0 for chunk in chunks[:-1])


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(RamdiskError, match=f"ramdisk {tmp_path}/initrd: no such file"):
        open_ramdisk(tmp_path / "initrd")


def test_empty(tmp_path: Path) -> None:
    (tmp_path / "initrd").touch()
    with pytest.raises(RamdiskError, match="is empty"):
        open_ramdisk(tmp_path / "initrd")


def test_directory(tmp_path: Path) -> None:
    with pytest.raises(RamdiskError, match="is a directory"):
        open_ramdisk(tmp_path)


def test_truncated_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(bytes(10000))
    ramdisk = open_ramdisk(path)
    os.truncate(path, 5000)
    with pytest.raises(RamdiskError, match=r"ramdisk .*initrd: it became shorter while it was read"):
        list(ramdisk.chunks())


def test_grown_after_it_was_opened(tmp_path: Path) -> None:
    path = tmp_path / "initrd"
    path.write_bytes(b"a" * 10000)
    ramdisk = open_ramdisk(path)
    os.truncate(path, 50000)
    assert b"".join(ramdisk.chunks()) == b"a" * 10000
