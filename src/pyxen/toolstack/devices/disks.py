"""The disks of domains: adding, removing and listing them, as libxl_disk.c does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from pyxen.toolstack.configuration.disk import DiskSpecification
from pyxen.toolstack.devices.device_entries import DeviceEntries, DevicePlace
from pyxen.toolstack.devices.vdev import device_number
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.xenstore.store import Store

_KIND = "vbd"


@dataclass(frozen=True)
class AttachedDisk:
    """What ``xl block-list`` shows. -1: the guest has not connected."""

    devid: int
    vdev: str
    target: str
    writable: bool
    state: int  #: of the backend, XenbusState*
    event_channel: int
    ring_reference: int
    backend_path: str


class DomainDisks:
    """Belongs to the event loop's thread. The block backend does its part when it sees the entries in the store."""

    def __init__(self, store: Store) -> None:
        self._entries = DeviceEntries(store)

    async def attach_all(self, domid: int, disks: Sequence[DiskSpecification]) -> None:
        """The disks of a new domain. Raises ``ToolstackError``; those that were attached then stay."""
        for disk in disks:
            await self.attach(domid, disk)

    async def attach(self, domid: int, disk: DiskSpecification) -> int:
        """Raises ``ToolstackError``, and then nothing of the disk is left. -> the device's number."""
        reason = disk.unsupported()
        if reason:
            raise ToolstackError(f"disk {disk.vdev}: {reason}", Fault.UNSUPPORTED)
        place = DevicePlace(_KIND, domid, _number(disk.vdev))
        if self._entries.exists(place):
            raise ToolstackError(f"the domain has a disk {disk.vdev} already", Fault.EXISTS)
        try:
            self._entries.write(place, _frontend_entries(place, disk), _backend_entries(disk))
            await self._entries.ready(place)
        except BaseException:
            await self._entries.destroy(place)
            raise
        return place.devid

    async def detach(self, domid: int, untrusted_vdev: str, *, force: bool) -> str:
        """``untrusted_vdev``: a name or number. -> the disk's name. Raises ``ToolstackError``."""
        place = DevicePlace(_KIND, domid, _number(untrusted_vdev))
        if not self._entries.exists(place):
            raise ToolstackError(f"Device {untrusted_vdev} not connected.", Fault.NOT_FOUND)
        name = self._entries.read(f"{place.libxl}/dev")
        if force:
            await self._entries.destroy(place)
        else:
            await self._entries.unplug(place)
        return name

    async def change_medium(self, domid: int, untrusted_vdev: str, medium: DiskSpecification | None) -> str:
        """Put another image into a CD drive, or none. When the image can't be used, the drive is empty afterwards. -> the drive's name.
        Raises ``ToolstackError``."""
        place = DevicePlace(_KIND, domid, _number(untrusted_vdev))
        if not self._entries.exists(place) or self._entries.read(f"{place.libxl}/device-type") != "cdrom":
            raise ToolstackError(f"the domain has no CD drive {untrusted_vdev}", Fault.NOT_FOUND)
        if medium is not None and self._entries.read(f"{place.libxl}/params") == medium.target:
            return self._entries.read(f"{place.libxl}/dev")
        wanted = {"params": "", "image-format": "empty"}
        if medium is not None:
            wanted = {"params": medium.target, "image-format": medium.format}
        elif not self._entries.read(f"{place.libxl}/params"):
            return self._entries.read(f"{place.libxl}/dev")
        refusal = await self._entries.change(place, wanted)
        if refusal:
            await self._entries.change(place, {"params": "", "image-format": "empty"})
            raise ToolstackError(f"{refusal}; the drive is empty now", Fault.INVALID)
        return self._entries.read(f"{place.libxl}/dev")

    async def remove_all(self, domid: int) -> None:
        """Before a domain is destroyed. Never raises."""
        places = [DevicePlace(_KIND, domid, devid) for devid in self._entries.numbers(domid, _KIND)]
        await asyncio.gather(*(self._entries.destroy(place) for place in places), return_exceptions=True)

    def attached(self, domid: int) -> list[AttachedDisk]:
        return [self._attached(DevicePlace(_KIND, domid, devid)) for devid in self._entries.numbers(domid, _KIND)]

    def _attached(self, place: DevicePlace) -> AttachedDisk:
        read = self._entries.read
        reference = read(f"{place.frontend}/ring-ref") or read(f"{place.frontend}/ring-ref0") or read(f"{place.frontend}/queue-0/ring-ref")
        channel = read(f"{place.frontend}/event-channel") or read(f"{place.frontend}/queue-0/event-channel")
        return AttachedDisk(
            devid=place.devid,
            vdev=read(f"{place.libxl}/dev"),
            target=read(f"{place.libxl}/params"),
            writable=read(f"{place.libxl}/mode").startswith("w"),
            state=self._entries.state(place),
            event_channel=_untrusted_number(channel),
            ring_reference=_untrusted_number(reference),
            backend_path=place.backend,
        )


def _number(vdev: str) -> int:
    with contextlib.suppress(ValueError):
        return device_number(vdev)
    raise ToolstackError(f"{vdev!a} is no virtual disk such as xvda, hda or sda1", Fault.INVALID)


def _frontend_entries(place: DevicePlace, disk: DiskSpecification) -> dict[str, str]:
    return {
        "virtual-device": str(place.devid),
        "device-type": "cdrom" if disk.cdrom else "disk",
        "trusted": str(int(disk.trusted)),
    }


def _backend_entries(disk: DiskSpecification) -> dict[str, str]:
    mode = ("w!" if disk.shared else "w") if disk.writable else "r"
    return {
        "params": disk.target,
        "image-format": disk.format,
        "removable": str(int(disk.cdrom)),
        "bootable": "1",
        "dev": disk.vdev,
        "type": "phy" if disk.format == "raw" else "qdisk",
        "mode": mode,
        "device-type": "cdrom" if disk.cdrom else "disk",
        "discard-enable": str(int(disk.discard)),
    }


def _untrusted_number(untrusted_text: str) -> int:
    """-1 for what is no number that fits."""
    return int(untrusted_text) if untrusted_text.isascii() and untrusted_text.isdigit() and len(untrusted_text) < 11 else -1
