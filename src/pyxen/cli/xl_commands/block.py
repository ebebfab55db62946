"""``xl block-attach``, ``block-list``, ``block-detach``, ``cd-insert`` and ``cd-eject``."""

from __future__ import annotations

import json
import os

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS, CommandFailed
from pyxen.cli.xl_commands.each_domain import each_domain
from pyxen.host.protocol import (
    BLOCK_ATTACH,
    BLOCK_CHECK,
    BLOCK_DETACH,
    BLOCK_LIST,
    BLOCK_MEDIUM,
    BlockAttachRequest,
    BlockDetachRequest,
    DomainId,
    HostError,
    MediumRequest,
    ResolvedDomain,
)

_LIST_FORMAT = "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}"


def block_attach(context: Context, arguments: list[str]) -> int:
    """Hot-plug a disk. The specification may come in several arguments, which commas join."""
    _, rest = parse_options(arguments, required=2)
    domain = context.resolve(rest[0])
    request = BlockAttachRequest(domain.domid, ",".join(rest[1:]), os.getcwd())
    if context.dry_run:
        print(f"disk: {json.dumps(context.client.call(BLOCK_CHECK, request).libxl, indent=4)}")
        return EXIT_SUCCESS
    context.client.call(BLOCK_ATTACH, request)
    return EXIT_SUCCESS


def block_detach(context: Context, arguments: list[str]) -> int:
    """Unplug a disk."""
    options, rest = parse_options(arguments, long=["force"], required=2)
    domain = context.resolve(rest[0])
    force = any(name == "--force" for name, _ in options)
    try:
        context.client.call(BLOCK_DETACH, BlockDetachRequest(domain.domid, rest[1], force))
    except HostError as error:
        raise CommandFailed(f"libxl_device_disk_remove failed: {error}") from None
    return EXIT_SUCCESS


def cd_insert(context: Context, arguments: list[str]) -> int:
    """Put an image into a CD drive, in place of what is in it."""
    _, rest = parse_options(arguments, required=3)
    return _change_medium(context, *rest[:3])


def cd_eject(context: Context, arguments: list[str]) -> int:
    """Empty a CD drive."""
    _, rest = parse_options(arguments, required=2)
    return _change_medium(context, rest[0], rest[1], "")


def _change_medium(context: Context, identifier: str, vdev: str, target: str) -> int:
    domain = context.resolve(identifier)
    context.client.call(BLOCK_MEDIUM, MediumRequest(domain.domid, vdev, target, os.getcwd()))
    return EXIT_SUCCESS


def block_list(context: Context, arguments: list[str]) -> int:
    """The disks of some domains."""
    _, rest = parse_options(arguments, required=1)
    print(_LIST_FORMAT.format("Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"))

    def show(domain: ResolvedDomain) -> None:
        for disk in context.client.call(BLOCK_LIST, DomainId(domain.domid)).devices:
            row = (disk.devid, 0, domain.domid, disk.state, disk.event_channel, disk.ring_reference, disk.backend_path)
            print(_LIST_FORMAT.format(*row))

    return each_domain(context, rest, show)
