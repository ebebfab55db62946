"""``python -m pyxen.toolstack.bootloader.reader DISK KERNEL RAMDISK OPTIONS``: the process that reads a guest's disk.

DISK, KERNEL and RAMDISK are numbers of open files: the disk for reading, the other two to be filled. OPTIONS and the answer on the standard
output are JSON: {"kernel": path, "ramdisk": path, "arguments": text} or {"error": text}.
"""

from __future__ import annotations

import encodings.utf_8  # noqa: F401  nothing can be imported once the sandbox is entered
import json
import os
import sys
from dataclasses import asdict, dataclass

from pyxen.toolstack.bootloader import grub_menu, sandbox
from pyxen.toolstack.bootloader.errors import BootError
from pyxen.toolstack.bootloader.ext_file_system import ExtFileSystem, MissingError
from pyxen.toolstack.bootloader.partitions import file_system_offsets

#: In the order of pygrub.
_MENUS = ("/boot/grub/grub.cfg", "/grub/grub.cfg", "/boot/grub2/grub.cfg", "/grub2/grub.cfg")
_MENU_LIMIT = 4 << 20
_ENVIRONMENT_LIMIT = 64 << 10
KERNEL_LIMIT = 256 << 20
RAMDISK_LIMIT = 512 << 20
#: Ramdisks that follow one another begin at multiples of 4 bytes.
_ALIGNMENT = 4


@dataclass(frozen=True)
class ReaderOptions:
    """What of the disk is wanted; empty: as its menu says."""

    offset: int | None = None  #: of the file system, in bytes
    entry: str | None = None
    kernel: str = ""
    ramdisk: str = ""


@dataclass(frozen=True)
class Found:
    """What was copied."""

    kernel: str
    ramdisk: str  #: empty: none
    arguments: str


class DiskReader:
    """Copies what the disk of descriptor ``disk`` boots to two other open files."""

    def __init__(self, disk: int, kernel: int, ramdisk: int) -> None:
        self._disk, self._kernel, self._ramdisk = disk, kernel, ramdisk

    def copy(self, options: ReaderOptions) -> Found:
        """Raises ``BootError``."""
        offsets = [options.offset] if options.offset is not None else file_system_offsets(self._read)
        reasons = []
        for offset in offsets:
            try:
                file_system = ExtFileSystem(self._read, offset)
                found = self._chosen(file_system, options)
                if found:
                    return self._copied(file_system, *found)
            except MissingError as error:
                reasons.append(str(error))
            except BootError as error:
                if not str(error).startswith("no ext"):
                    raise
        raise BootError(reasons[0] if reasons else "no ext2, ext3 or ext4 file system with a boot menu of GRUB 2 (/boot/grub/grub.cfg)")

    def _chosen(self, file_system: ExtFileSystem, options: ReaderOptions) -> tuple[str, list[str], str] | None:
        """(kernel, ramdisks, arguments), or None if the file system has no menu. Raises ``BootError``."""
        if options.kernel:
            return options.kernel, [options.ramdisk] if options.ramdisk else [], ""
        for path in _MENUS:
            try:
                text = file_system.read_file(path, _MENU_LIMIT).decode("utf-8", "replace")
            except MissingError:
                continue
            entry = grub_menu.parse(text, self._environment(file_system, path)).chosen(options.entry)
            return entry.kernel, [options.ramdisk] if options.ramdisk else entry.ramdisks, entry.arguments
        return None

    def _environment(self, file_system: ExtFileSystem, menu: str) -> dict[str, str]:
        try:
            return grub_menu.parse_environment(file_system.read_file(f"{os.path.dirname(menu)}/grubenv", _ENVIRONMENT_LIMIT))
        except BootError:
            return {}

    def _copied(self, file_system: ExtFileSystem, kernel: str, ramdisks: list[str], arguments: str) -> Found:
        size = file_system.copy_file(kernel, KERNEL_LIMIT, lambda data, position: _write(self._kernel, data, position))
        os.ftruncate(self._kernel, size)
        end = 0
        for ramdisk in ramdisks:
            start = -(-end // _ALIGNMENT) * _ALIGNMENT

            def put(data: bytes, position: int, start: int = start) -> None:
                _write(self._ramdisk, data, start + position)

            end = start + file_system.copy_file(ramdisk, RAMDISK_LIMIT - start, put)
        os.ftruncate(self._ramdisk, end)
        return Found(kernel, " ".join(ramdisks), arguments)

    def _read(self, offset: int, length: int) -> bytes:
        if not 0 <= offset < 1 << 62:
            return b""
        pieces = []
        while length:
            data = os.pread(self._disk, length, offset)
            if not data:
                break
            pieces.append(data)
            offset += len(data)
            length -= len(data)
        return b"".join(pieces)


def _write(descriptor: int, data: bytes, position: int) -> None:
    while data:
        done = os.pwrite(descriptor, data, position)
        data, position = data[done:], position + done


def main() -> None:
    """Answers on the standard output."""
    sandbox.die_with_parent()
    disk, kernel, ramdisk = (int(argument) for argument in sys.argv[1:4])
    options = ReaderOptions(**json.loads(sys.argv[4]))
    answer: dict[str, str]
    try:
        sandbox.enter(RAMDISK_LIMIT)
        answer = asdict(DiskReader(disk, kernel, ramdisk).copy(options))
    except BootError as error:
        answer = {"error": str(error)}
    except OSError as error:
        answer = {"error": f"the disk can't be read: {error.strerror or error}"}
    except (MemoryError, RecursionError):
        answer = {"error": "the disk has a file system or boot menu that takes too much memory to read"}
    os.write(1, json.dumps(answer).encode())
    os._exit(0)


if __name__ == "__main__":
    main()
