"""``xl network-attach``, ``network-list`` and ``network-detach``."""

from __future__ import annotations

from pyxen.cli.command import Context, parse_options
from pyxen.cli.failures import EXIT_FAILURE, EXIT_SUCCESS, CommandFailed
from pyxen.host.protocol import NETWORK_ATTACH, NETWORK_DETACH, NETWORK_LIST, DomainId, NetworkAttachRequest, NetworkDetachRequest

_HEADER = "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<5} {:<30}"
_ROW = "{:<3d} {:<2d} {:<17} {:6d} {:5d} {:6d} {:5d}/{:<11d} {:<30}"


def network_attach(context: Context, arguments: list[str]) -> int:
    """Hot-plug an interface. Each argument is one parameter of an entry of vif=."""
    _, rest = parse_options(arguments, required=1)
    domain = context.resolve(rest[0])
    context.client.call(NETWORK_ATTACH, NetworkAttachRequest(domain.domid, ",".join(rest[1:])))
    return EXIT_SUCCESS


def network_detach(context: Context, arguments: list[str]) -> int:
    """Unplug an interface."""
    options, rest = parse_options(arguments, long=["force"], required=2)
    domain = context.resolve(rest[0])
    force = any(name == "--force" for name, _ in options)
    context.client.call(NETWORK_DETACH, NetworkDetachRequest(domain.domid, rest[1], force))
    return EXIT_SUCCESS


def network_list(context: Context, arguments: list[str]) -> int:
    """The interfaces of some domains. One that is not there does not keep the others from being shown."""
    _, rest = parse_options(arguments, required=1)
    print(_HEADER.format("Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"))
    status = EXIT_SUCCESS
    for identifier in rest:
        try:
            domain = context.resolve(identifier)
        except CommandFailed as error:
            context.message(str(error))
            status = EXIT_FAILURE
            continue
        for vif in context.client.call(NETWORK_LIST, DomainId(domain.domid)).interfaces:
            references = vif.tx_ring_reference, vif.rx_ring_reference
            print(_ROW.format(vif.devid, 0, vif.mac, vif.devid, vif.state, vif.event_channel, *references, vif.backend_path))
    return status
