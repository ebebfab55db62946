"""Reads by offsets and sizes out of an untrusted file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyxen.toolstack.builder.byte_source import ByteSource, FileBytes, MemoryBytes
from pyxen.toolstack.builder.errors import KernelFormatError

CONTENT = bytes(range(256)) * 16


@pytest.fixture(params=["memory", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ByteSource:
    if request.param == "memory":
        return MemoryBytes(CONTENT)
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    request.addfinalizer(lambda: os.close(descriptor))
    return FileBytes(descriptor)


@pytest.mark.parametrize(("offset", "size"), [(0, 0), (0, 4096), (4095, 1), (4096, 0), (100, 1000)])
def test_inside(source: ByteSource, offset: int, size: int) -> None:
    assert bytes(source.read(offset, size, "table")) == CONTENT[offset : offset + size]


@pytest.mark.parametrize(("offset", "size"), [(0, 4097), (4096, 1), (-1, 1), (10, -5), (1 << 64, 1), (1, 1 << 64)])
def test_outside(source: ByteSource, offset: int, size: int) -> None:
    with pytest.raises(KernelFormatError, match="its table should end at byte"):
        source.read(offset, size, "table")


def test_file_that_becomes_shorter(tmp_path: Path) -> None:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        source = FileBytes(descriptor)
        os.truncate(path, 100)
        with pytest.raises(KernelFormatError, match="truncated while its table was read"):
            source.read(0, 4096, "table")
    finally:
        os.close(descriptor)
