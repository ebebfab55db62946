"""Names and numbers of virtual disks (Xen's vbd-interface(7)): xvda is 51712."""

from __future__ import annotations

import re

_NAME = re.compile(r"(xvd|hd|sd)([a-z]{1,3})([0-9]{0,4})")
_GENERIC = re.compile(r"d([0-9]{1,7})(?:p([0-9]{1,3}))?")
_NUMBER = re.compile(r"0x[0-9a-f]{1,8}|[0-9]{1,10}", re.IGNORECASE)

_XVD_MAJOR, _SD_MAJOR, _HD_MAJORS = 202, 8, (3, 22)
_EXTENDED = 1 << 28
_EXTENDED_DISKS, _EXTENDED_PARTITIONS = 1 << 20, 256


def device_number(vdev: str) -> int:
    """The number of "xvda", "xvdb3", "hdc", "sda1", "d5p2", or of a number. Raises ``ValueError``."""
    if _NUMBER.fullmatch(vdev):
        return int(vdev, 16 if vdev[:2].lower() == "0x" else 10)
    if match := _GENERIC.fullmatch(vdev):
        return _xvd(vdev, int(match[1]), int(match[2] or 0))
    match = _NAME.fullmatch(vdev)
    if match is None:
        raise ValueError(f'"{vdev}" is not a virtual disk such as xvda, hda or sda1')
    disk, partition = _letters(match[2]), int(match[3] or 0)
    if match[1] == "xvd":
        return _xvd(vdev, disk, partition)
    if match[1] == "hd":
        _check(vdev, disk < 4 and partition < 64)
        return _HD_MAJORS[disk // 2] << 8 | (disk & 1) << 6 | partition
    _check(vdev, disk < 16 and partition < 16)
    return _SD_MAJOR << 8 | disk << 4 | partition


def _xvd(vdev: str, disk: int, partition: int) -> int:
    if disk < 16 and partition < 16:
        return _XVD_MAJOR << 8 | disk << 4 | partition
    _check(vdev, disk < _EXTENDED_DISKS and partition < _EXTENDED_PARTITIONS)
    return _EXTENDED | disk << 8 | partition


def _letters(letters: str) -> int:
    """ "a" is 0, "z" 25, "aa" 26."""
    number = 0
    for letter in letters:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1


def _check(vdev: str, fits: bool) -> None:
    if not fits:
        raise ValueError(f'"{vdev}" is beyond what there is of such devices; use xvd')
