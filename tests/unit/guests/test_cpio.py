"""The archive writer, read back by code of its own kind. That Linux takes the archives is what every boot test shows."""

from __future__ import annotations

import stat

import pytest

from pyxen.guests.cpio import Archive


def members(archive: bytes) -> dict[str, tuple[int, bytes, tuple[int, int]]]:
    """Name -> mode, content, device number."""
    found = {}
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[position + 6 + 8 * i : position + 14 + 8 * i], 16) for i in range(13)]
        name_size, size = fields[11], fields[6]
        name = archive[position + 110 : position + 110 + name_size - 1].decode()
        assert archive[position + 110 + name_size - 1] == 0
        content_start = (position + 110 + name_size + 3) & ~3
        if name == "TRAILER!!!":
            assert archive[content_start:] == b""
            return found
        found[name] = (fields[1], archive[content_start : content_start + size], (fields[9], fields[10]))
        position = (content_start + size + 3) & ~3


def test_each_kind_of_member() -> None:
    archive = Archive()
    archive.add_directory("a/b")
    archive.add_file("a/b/odd", b"12345", 0o755)
    archive.add_link("a/l", "b/odd")
    archive.add_character_device("console", 5, 1)
    assert members(archive.finish()) == {
        "a": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "a/b": (stat.S_IFDIR | 0o755, b"", (0, 0)),
        "a/b/odd": (stat.S_IFREG | 0o755, b"12345", (0, 0)),
        "a/l": (stat.S_IFLNK | 0o777, b"b/odd", (0, 0)),
        "console": (stat.S_IFCHR | 0o600, b"", (5, 1)),
    }


def test_same_members_make_the_same_bytes() -> None:
    archives = []
    for _ in range(2):
        archive = Archive()
        archive.add_directory("dev")
        archive.add_file("dev/x", b"x")
        archives.append(archive.finish())
    assert archives[0] == archives[1]


def test_a_name_is_taken_once() -> None:
    archive = Archive()
    archive.add_file("init", b"")
    with pytest.raises(ValueError, match="init"):
        archive.add_link("init", "bin/busybox")
