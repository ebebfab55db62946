"""``xl mem-set`` and ``mem-max``."""

from __future__ import annotations

import re

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.host.protocol import DOMAIN_MEM_MAX, DOMAIN_MEM_SET, HostError, MemoryRequest

_SIZE = re.compile(r"([0-9]{1,18})([bkmgt]?)", re.IGNORECASE)
#: Shifts to KiB. No unit is MiB: the manual says KiB, but xl has always taken it as MiB.
_SHIFTS = {"t": 30, "g": 20, "m": 10, "": 10, "k": 0, "b": -10}


def parse_memory(text: str) -> int:
    """ "2048", "2g", "512k": KiB. Raises ``CommandFailed``."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise CommandFailed(f"invalid memory size: {text}")
    number, shift = int(match[1]), _SHIFTS[match[2].lower()]
    kib = number << shift if shift >= 0 else number >> -shift
    if not 0 < kib < 1 << 62:
        raise CommandFailed(f"invalid memory size: {text}")
    return kib


def mem_set(context: Context, arguments: list[str]) -> int:
    """Ask the guest's balloon driver for this size."""
    _, rest = parse_options(arguments, required=2)
    domain = context.resolve(rest[0])
    try:
        context.client.call(DOMAIN_MEM_SET, MemoryRequest(domain.domid, parse_memory(rest[1])))
    except HostError as error:
        raise CommandFailed(f"cannot set domid {domain.domid} dynamic max memory to : {rest[1]}: {error}") from None
    return EXIT_SUCCESS


def mem_max(context: Context, arguments: list[str]) -> int:
    """Set the most that the hypervisor gives the domain."""
    _, rest = parse_options(arguments, required=2)
    domain = context.resolve(rest[0])
    try:
        context.client.call(DOMAIN_MEM_MAX, MemoryRequest(domain.domid, parse_memory(rest[1])))
    except HostError as error:
        raise CommandFailed(f"cannot set domid {domain.domid} static max memory to : {rest[1]}: {error}") from None
    return EXIT_SUCCESS
