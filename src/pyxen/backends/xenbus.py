"""Finds the devices of one class that Domain 0's store has, as the xen-backend bus of Linux does."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Iterator

from pyxen.abi.io.xenbus import XenbusStateInitialising
from pyxen.backends.device import BackendDevice, DeviceAddress, DeviceError, Surroundings
from pyxen.xenstore.errors import StoreError

_logger = logging.getLogger(__name__)

#: From the folder of a class: <domid>/<devid>.
_DEVICE_DEPTH = 2
#: A device that fails more often than so many times in so many seconds is closed.
_MAX_CRASHES, _CRASH_SECONDS = 5, 60.0

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
        self._restarting: dict[DeviceAddress, asyncio.Task[None]] = {}
        self._crashes: dict[DeviceAddress, list[float]] = {}
        self._folder = f"/local/domain/0/backend/{kind}"
        self._stop = surroundings.store.watch(self._folder, kind, self._changed, _DEVICE_DEPTH)

    def find(self, domid: int, devid: int) -> BackendDevice | None:
        return self._devices.get(DeviceAddress(self._kind, domid, devid))

    async def restart(self, domid: int, devid: int) -> None:
        """Throw a device's backend away, with all that it has of the guest, and start a new one in its place. Its frontend goes on: what it
        has asked for and got no answer to is done by the new one. KeyError when there is no such device."""
        address = DeviceAddress(self._kind, domid, devid)
        if address not in self._devices:
            raise KeyError(address)
        await asyncio.shield(self._restart(address))

    def _restart(self, address: DeviceAddress) -> asyncio.Task[None]:
        """One at a time for each device."""
        task = self._restarting.get(address)
        if task is None:
            task = self._restarting[address] = asyncio.ensure_future(self._replace(address, self._devices[address]))
            task.add_done_callback(lambda _: self._restarting.pop(address, None))
        return task

    async def _replace(self, address: DeviceAddress, device: BackendDevice) -> None:
        legacy = await device.abandon()
        # It may have been removed meanwhile, in the store at least.
        if self._devices.get(address) is device and address in set(self._present()):
            _logger.info("%s: the backend is restarted", address)
            self._start(address, legacy)

    def _start(self, address: DeviceAddress, legacy: object | None) -> None:
        device = self._factory(self._surroundings, address)
        device.inheritance = legacy
        device.on_crash = lambda error: self._crashed(device, error)
        device.on_change = lambda: self._outdated(device)
        self._devices[address] = device

    def _outdated(self, device: BackendDevice) -> None:
        if self._devices.get(device.address) is device:
            self._restart(device.address)

    def _crashed(self, device: BackendDevice, error: Exception) -> None:
        now = self._surroundings.loop.time()
        crashes = self._crashes[device.address] = [
            *(at for at in self._crashes.get(device.address, ()) if now - at < _CRASH_SECONDS),
            now,
        ]
        if len(crashes) > _MAX_CRASHES:
            device.fail(DeviceError(errno.EIO, f"the backend fails all the time, at last by {type(error).__name__}: {error}"))
        else:
            self._outdated(device)

    async def close(self) -> None:
        """Close every device; when it returns, nothing of any guest is held."""
        self._stop()
        await asyncio.gather(*self._restarting.values(), return_exceptions=True)
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
            self._start(address, None)

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
        self._crashes.pop(address, None)
        task = asyncio.ensure_future(self._close_device(self._devices.pop(address)))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _close_device(self, device: BackendDevice) -> None:
        try:
            await device.close()
        except Exception:
            _logger.exception("%s: closing failed", device.address)
