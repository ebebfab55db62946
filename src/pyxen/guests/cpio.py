"""Writer of cpio archives in the format that Linux takes as an initial ramdisk ("newc", Documentation/driver-api/early-userspace)."""

from __future__ import annotations

import os
import stat
from pathlib import PurePosixPath

_MAGIC = "070701"


class Archive:
    """Collects members in memory. Device nodes are only entries of the archive, so no privilege is needed to add them.

    Owner and group of everything are root, times are 0: the same members make the same bytes.
    """

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._names: set[str] = set()

    def add_directory(self, name: str, mode: int = 0o755) -> None:
        """Add a directory, and those above it. One that is there already stays as it is."""
        parent = str(PurePosixPath(name).parent)
        if parent not in (".", "/"):
            self.add_directory(parent)
        if name not in self._names:
            self._add(name, stat.S_IFDIR | mode)

    def add_file(self, name: str, content: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        self._add(name, stat.S_IFREG | mode, content)

    def add_link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def add_character_device(self, name: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device node."""
        self._add(name, stat.S_IFCHR | mode, device=os.makedev(major, minor))

    def finish(self) -> bytes:
        """The whole archive, with its trailer."""
        return b"".join([*self._blocks, _member("TRAILER!!!", 0, 0, b"", 0)])

    def _add(self, name: str, mode: int, content: bytes = b"", device: int = 0) -> None:
        if name in self._names:
            raise ValueError(f"{name} is in the archive already")
        self._names.add(name)
        self._blocks.append(_member(name, len(self._names), mode, content, device))


def _member(name: str, inode: int, mode: int, content: bytes, device: int) -> bytes:
    links = 2 if stat.S_ISDIR(mode) else 1
    encoded = name.encode() + b"\0"
    # c_ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, os.major(device), os.minor(device), len(encoded), 0)
    header = (_MAGIC + "".join(f"{field:08x}" for field in fields)).encode()
    return _padded(header + encoded) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
