"""The network interfaces of domains: adding, removing and listing them, as libxl_nic.c does."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from pyxen.toolstack.configuration.vif import VifSpecification
from pyxen.toolstack.devices.device_entries import DeviceEntries, DevicePlace
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.xenstore.store import Store

_KIND = "vif"
#: Xen's part of all Ethernet addresses.
_XEN_PREFIX = "00:16:3e"
_SCRIPTS = "/etc/xen/scripts/"


@dataclass(frozen=True)
class AttachedInterface:
    """What ``xl network-list`` shows. -1: the guest has not connected."""

    devid: int
    mac: str
    state: int  #: of the backend, XenbusState*
    event_channel: int
    tx_ring_reference: int
    rx_ring_reference: int
    backend_path: str
    bridge: str  #: empty: NAT


def with_addresses(vifs: Sequence[VifSpecification]) -> tuple[VifSpecification, ...]:
    """The interfaces with numbers and MAC addresses, made up where none is given: they stay when the domain is started anew."""
    taken = {vif.devid for vif in vifs}
    result = []
    for vif in vifs:
        if vif.devid < 0:
            vif = dataclasses.replace(vif, devid=next(devid for devid in range(len(vifs) + len(taken)) if devid not in taken))
            taken.add(vif.devid)
        result.append(vif if vif.mac else dataclasses.replace(vif, mac=_random_mac()))
    return tuple(result)


def _random_mac() -> str:
    return ":".join([_XEN_PREFIX, *(f"{octet:02x}" for octet in secrets.token_bytes(3))])


class DomainInterfaces:
    """Belongs to the event loop's thread. The network backend does its part when it sees the entries in the store."""

    def __init__(self, store: Store) -> None:
        self._entries = DeviceEntries(store)

    async def attach_all(self, domid: int, vifs: Sequence[VifSpecification]) -> None:
        """The interfaces of a new domain, with their addresses. Raises ``ToolstackError``; those that were attached then stay."""
        for vif in vifs:
            await self._attach(domid, vif)

    async def attach(self, domid: int, vif: VifSpecification) -> VifSpecification:
        """Raises ``ToolstackError``, and then nothing of the interface is left. -> the specification with number and address."""
        if vif.devid < 0:
            taken = self._entries.numbers(domid, _KIND)
            vif = dataclasses.replace(vif, devid=next(devid for devid in range(len(taken) + 1) if devid not in taken))
        vif = with_addresses([vif])[0]
        await self._attach(domid, vif)
        return vif

    async def _attach(self, domid: int, vif: VifSpecification) -> None:
        if vif.unsupported():
            raise ToolstackError(f"vif {vif.devid}: {vif.unsupported()}", Fault.UNSUPPORTED)
        place = DevicePlace(_KIND, domid, vif.devid)
        if self._entries.exists(place):
            raise ToolstackError(f"the domain has a network interface {vif.devid} already", Fault.EXISTS)
        try:
            self._entries.write(place, _frontend_entries(vif), _backend_entries(vif))
            await self._entries.ready(place)
        except BaseException:
            await self._entries.destroy(place)
            raise

    async def detach(self, domid: int, untrusted_name: str, *, force: bool) -> int:
        """``untrusted_name``: a number or a MAC address. -> the number. Raises ``ToolstackError``."""
        for interface in self.attached(domid):
            if untrusted_name.lower() in (interface.mac, str(interface.devid)):
                place = DevicePlace(_KIND, domid, interface.devid)
                await (self._entries.destroy(place) if force else self._entries.unplug(place))
                return interface.devid
        raise ToolstackError(f"Unknown device {untrusted_name}.", Fault.NOT_FOUND)

    async def remove_all(self, domid: int) -> None:
        """Before a domain is destroyed. Never raises."""
        places = [DevicePlace(_KIND, domid, devid) for devid in self._entries.numbers(domid, _KIND)]
        await asyncio.gather(*(self._entries.destroy(place) for place in places), return_exceptions=True)

    def attached(self, domid: int) -> list[AttachedInterface]:
        return [self._attached(DevicePlace(_KIND, domid, devid)) for devid in self._entries.numbers(domid, _KIND)]

    def _attached(self, place: DevicePlace) -> AttachedInterface:
        def number(*names: str) -> int:
            texts = [self._entries.read(f"{place.frontend}/{folder}{name}") for folder in ("", "queue-0/") for name in names]
            return _untrusted_number(next((text for text in texts if text), ""))

        return AttachedInterface(
            devid=place.devid,
            mac=self._entries.read(f"{place.libxl}/mac"),
            state=self._entries.state(place),
            event_channel=number("event-channel", "event-channel-tx"),
            tx_ring_reference=number("tx-ring-ref"),
            rx_ring_reference=number("rx-ring-ref"),
            backend_path=place.backend,
            bridge=self._entries.read(f"{place.libxl}/bridge"),
        )


def _frontend_entries(vif: VifSpecification) -> dict[str, str]:
    entries = {"handle": str(vif.devid), "trusted": str(int(vif.trusted)), "mac": vif.mac}
    return entries | ({"mtu": str(vif.mtu)} if vif.mtu else {})


def _backend_entries(vif: VifSpecification) -> dict[str, str]:
    """As libxl writes them, and pyxen's own ``forwards``."""
    entries = {"mac": vif.mac, "handle": str(vif.devid), "type": "vif"}
    limit = vif.rate_limit()
    optional = {
        "script": vif.script and (vif.script if vif.script.startswith("/") else _SCRIPTS + vif.script),
        "vifname": vif.vifname,
        "ip": vif.ip,
        "rate": f"{limit[0]},{limit[1]}" if limit is not None else "",
        "bridge": vif.bridge,
        "mtu": str(vif.mtu) if vif.mtu else "",
        "forwards": " ".join(vif.forwards),
    }
    return entries | {name: value for name, value in optional.items() if value}


def _untrusted_number(untrusted_text: str) -> int:
    """-1 for what is no number that fits."""
    return int(untrusted_text) if untrusted_text.isascii() and untrusted_text.isdigit() and len(untrusted_text) < 11 else -1
