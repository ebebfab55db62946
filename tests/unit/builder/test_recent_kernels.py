"""Kernels that are kept in memory between two domains: never one whose file has changed, and not for long."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pyxen.toolstack.builder.recent_kernels import RecentKernels


class Reader:
    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, path: Path) -> bytes:
        self.calls += 1
        return path.read_bytes()


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that looks an hour old from here: a change of it now is a change of its time."""
    path = tmp_path / "kernel"
    path.write_bytes(b"first")
    real = time.time
    monkeypatch.setattr("pyxen.toolstack.builder.recent_kernels.time.time", lambda: real() + 3600)
    return path


def test_read_once(kernel: Path) -> None:
    recent, read = RecentKernels(), Reader()
    assert recent.open(kernel, read) == recent.open(kernel, read) == b"first"
    assert read.calls == 1
    other = Reader()
    assert recent.open(kernel, other) == b"first" and other.calls == 1  # read as something else
    recent.close()


@pytest.mark.parametrize("way", ["rewritten", "replaced", "same size and time"])
def test_changed_file(kernel: Path, way: str) -> None:
    recent, read = RecentKernels(), Reader()
    recent.open(kernel, read)
    before = kernel.stat()
    time.sleep(0.05)
    if way == "replaced":
        (kernel.parent / "new").write_bytes(b"other")
        (kernel.parent / "new").rename(kernel)
    else:
        kernel.write_bytes(b"other")
    if way == "same size and time":
        os.utime(kernel, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert recent.open(kernel, read) == b"other"
    recent.close()


def test_file_that_has_just_changed(tmp_path: Path) -> None:
    path = tmp_path / "kernel"
    path.write_bytes(b"new")
    recent, read = RecentKernels(), Reader()
    for _ in range(2):
        recent.open(path, read)
    assert read.calls == 2
    with pytest.raises(FileNotFoundError):
        recent.open(tmp_path / "absent", read)


def test_forgotten_after_a_time(kernel: Path) -> None:
    recent, read = RecentKernels(keep_s=0.1), Reader()
    recent.open(kernel, read)
    deadline = time.monotonic() + 10
    while recent._images and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not recent._images
    recent.open(kernel, read)
    assert read.calls == 2
    recent.close()
