"""``xl network-attach``, ``network-list`` and ``network-detach``."""

from __future__ import annotations

import json

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_SUCCESS
from pyxen.cli.xl_commands.each_domain import each_domain
from pyxen.host.protocol import (
    NETWORK_ATTACH,
    NETWORK_CHECK,
    NETWORK_DETACH,
    NETWORK_LIST,
    DomainId,
    NetworkAttachRequest,
    NetworkDetachRequest,
    ResolvedDomain,
)

_HEADER = "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}"
_ROW = "{:<3d} {:<2d} {:<17} {:6d} {:5d} {:6d} {:5d}/{:<11d} {:<30}"


def network_attach(context: Context, arguments: list[str]) -> int:
    """Hot-plug an interface. Each argument is one parameter of an entry of vif=."""
    _, rest = parse_options(arguments, required=1)
    domain = context.resolve(rest[0])
    request = NetworkAttachRequest(domain.domid, ",".join(rest[1:]))
    if context.dry_run:
        print(f"vif: {json.dumps(context.client.call(NETWORK_CHECK, request).libxl, indent=4)}")
        return EXIT_SUCCESS
    context.client.call(NETWORK_ATTACH, request)
    return EXIT_SUCCESS


def network_detach(context: Context, arguments: list[str]) -> int:
    """Unplug an interface."""
    options, rest = parse_options(arguments, long=["force"], required=2)
    domain = context.resolve(rest[0])
    force = any(name == "--force" for name, _ in options)
    context.client.call(NETWORK_DETACH, NetworkDetachRequest(domain.domid, rest[1], force))
    return EXIT_SUCCESS


def network_list(context: Context, arguments: list[str]) -> int:
    """The interfaces of some domains."""
    _, rest = parse_options(arguments, required=1)
    print(_HEADER.format("Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"))

    def show(domain: ResolvedDomain) -> None:
        for vif in context.client.call(NETWORK_LIST, DomainId(domain.domid)).interfaces:
            references = vif.tx_ring_reference, vif.rx_ring_reference
            print(_ROW.format(vif.devid, 0, vif.mac, vif.devid, vif.state, vif.event_channel, *references, vif.backend_path))

    return each_domain(context, rest, show)
