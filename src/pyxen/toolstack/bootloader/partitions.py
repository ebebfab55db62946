"""Where on a disk file systems may be: MBR and GPT partition tables (UEFI specification 2.10, chapter 5)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

#: Reads (offset, length) of the disk; shorter at its end.
Read = Callable[[int, int], bytes]

_SECTOR = 512
_EXTENDED = (0x05, 0x0F, 0x85)
_GPT_PROTECTIVE = 0xEE
_MOST_LOGICAL = 64
_MOST_ENTRIES = 256
_ENTRY_SIZES = range(128, 4097)


def file_system_offsets(read: Read) -> list[int]:
    """Bytes from the disk's start: of its partitions, active ones first, and in the end of the disk itself, which may have no table."""
    active: list[int] = []
    others: list[int] = []
    for offset, is_active in _partitions(read):
        (active if is_active else others).append(offset)
    return [*dict.fromkeys([*active, *others, 0])]


def _partitions(read: Read) -> Iterator[tuple[int, bool]]:
    for flag, kind, start in _table(read(0, _SECTOR)):
        if kind == _GPT_PROTECTIVE:
            yield from ((offset, False) for offset in _gpt(read))
        elif kind in _EXTENDED:
            yield from ((offset, False) for offset in _logical(read, start))
        else:
            yield start * _SECTOR, flag == 0x80


def _table(untrusted_sector: bytes) -> Iterator[tuple[int, int, int]]:
    """(flag, type, first sector) of the used entries of a partition table."""
    if len(untrusted_sector) < _SECTOR or untrusted_sector[510:512] != b"\x55\xaa":
        return
    for index in range(4):
        flag, kind, start, length = struct.unpack_from("<B3xB3xII", untrusted_sector, 446 + 16 * index)
        if kind and length and flag in (0, 0x80):
            yield flag, kind, start


def _logical(read: Read, extended: int) -> Iterator[int]:
    """The logical partitions: each has a table of its own, with itself and the place of the next table."""
    place = extended
    for _ in range(_MOST_LOGICAL):
        following = None
        for _, kind, start in _table(read(place * _SECTOR, _SECTOR)):
            if kind in _EXTENDED:
                following = extended + start
            else:
                yield (place + start) * _SECTOR
        if following is None:
            return
        place = following


def _gpt(read: Read) -> Iterator[int]:
    untrusted_header = read(_SECTOR, 92)
    if len(untrusted_header) < 92 or untrusted_header[:8] != b"EFI PART":
        return
    first, count, size = struct.unpack_from("<QII", untrusted_header, 72)
    if size not in _ENTRY_SIZES:
        return
    table = read(first * _SECTOR, min(count, _MOST_ENTRIES) * size)
    for position in range(0, len(table) - 127, size):
        kind, start = table[position : position + 16], struct.unpack_from("<Q", table, position + 32)[0]
        if any(kind):
            yield start * _SECTOR
