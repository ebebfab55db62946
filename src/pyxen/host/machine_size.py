"""How much machine memory a host gets when nobody says, and what it can have."""

from __future__ import annotations

import os

MEBIBYTE = 1 << 20
MINIMUM_BYTES = 64 * MEBIBYTE
MAXIMUM_BYTES = 1 << 40
#: The frame table has a few bytes per frame whether it is used or not; more than this must be asked for.
_DEFAULT_LIMIT_BYTES = 64 << 30
MAXIMUM_PROCESSORS = 64
_GRANULE = 2 * MEBIBYTE
_CGROUP_LIMIT = "/sys/fs/cgroup/memory.max"


def default_machine_bytes() -> int:
    """The RAM of this machine, or of the container that we are in: the machine memory is sparse and takes up what guests use of it."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open(_CGROUP_LIMIT, encoding="ascii") as file:
            limit = file.read().strip()
    except OSError:
        limit = "max"
    if limit.isdigit():
        available = min(available, int(limit))
    chosen = max(MINIMUM_BYTES, min(available, _DEFAULT_LIMIT_BYTES))
    return chosen // _GRANULE * _GRANULE


def check_machine_bytes(size: int) -> int:
    """``size`` as a number of bytes that a machine can have, rounded down to 2 MiB. Raises ``ValueError``."""
    if not MINIMUM_BYTES <= size <= MAXIMUM_BYTES:
        raise ValueError(f"the machine memory must be {MINIMUM_BYTES // MEBIBYTE} MiB to {MAXIMUM_BYTES // MEBIBYTE} MiB")
    return size // _GRANULE * _GRANULE


def check_processors(count: int) -> int:
    """``count`` if a machine can have so many physical CPUs; they may be more than this computer has. Raises ``ValueError``."""
    if not 1 <= count <= MAXIMUM_PROCESSORS:
        raise ValueError(f"a machine has 1 to {MAXIMUM_PROCESSORS} physical CPUs, not {count}")
    return count
