"""Finds the devices of one class that Domain 0's store has, as the xen-backend bus of Linux does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

from pyxen.abi.io.xenbus import XenbusStateInitialising
from pyxen.backends.device import BackendDevice, DeviceAddress, Surroundings
from pyxen.xenstore.errors import StoreError

_logger = logging.getLogger(__name__)

#: From the folder of a class: <domid>/<devid>.
_DEVICE_DEPTH = 2

DeviceFactory = Callable[[Surroundings, DeviceAddress], BackendDevice]


class BackendBus:
    """All devices of one class ("vbd"). A device lives from the time its folder is written to the time it is removed.
    Belongs to the event loop's thread."""

    def __init__(self, surroundings: Surroundings, kind: str, factory: DeviceFactory) -> None:
        self._surroundings = surroundings
        self._kind = kind
        self._factory = factory
        self._devices: dict[DeviceAddress, BackendDevice] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._folder = f"/local/domain/0/backend/{kind}"
        self._stop = surroundings.store.watch(self._folder, kind, self._changed, _DEVICE_DEPTH)

    def find(self, domid: int, devid: int) -> BackendDevice | None:
        return self._devices.get(DeviceAddress(self._kind, domid, devid))

    async def close(self) -> None:
        """Close every device; when it returns, nothing of any guest is held."""
        self._stop()
        for address in list(self._devices):
            self._close(address)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _changed(self, _path: str, _token: str) -> None:
        present = set(self._present())
        for address in self._devices.keys() - present:
            self._close(address)
        for address, device in list(self._devices.items()):
            if device.finished and self._is_new(address):  # removed and made again since we looked
                self._close(address)
        for address in present - self._devices.keys():
            self._devices[address] = self._factory(self._surroundings, address)

    def _is_new(self, address: DeviceAddress) -> bool:
        return self._surroundings.store.get(f"{address.backend_path}/state") == str(XenbusStateInitialising)

    def _present(self) -> Iterator[DeviceAddress]:
        store = self._surroundings.store
        for domid in self._children(self._folder):
            for devid in self._children(f"{self._folder}/{domid}"):
                if domid.isdigit() and devid.isdigit() and store.exists(f"{self._folder}/{domid}/{devid}/frontend"):
                    yield DeviceAddress(self._kind, int(domid), int(devid))

    def _children(self, path: str) -> list[str]:
        with contextlib.suppress(StoreError):
            return self._surroundings.store.ls(path)
        return []

    def _close(self, address: DeviceAddress) -> None:
        task = asyncio.ensure_future(self._close_device(self._devices.pop(address)))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_device(self, device: BackendDevice) -> None:
        try:
            await device.close()
        except Exception:
            _logger.exception("%s: closing failed", device.address)
