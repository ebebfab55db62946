"""A device's entries in the store, and adding and removing it by them: libxl's libxl_device.c.

Nothing here knows of any one class of devices. The backend is met in the store only, as it would be in another domain.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyxen.abi.io.xenbus import XenbusStateClosed, XenbusStateClosing, XenbusStateInitialising
from pyxen.toolstack.errors import Fault, ToolstackError
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.path_cleanup import remove_with_empty_folders
from pyxen.xenstore.store import Store

#: Seconds that a backend or a frontend has to answer (libxl's LIBXL_INIT_TIMEOUT and LIBXL_DESTROY_TIMEOUT).
TIMEOUT = 10.0


@dataclass(frozen=True)
class DevicePlace:
    """The folders of one device in the store. ``kind``: "vbd", "vif"."""

    kind: str
    domid: int
    devid: int

    @property
    def frontend(self) -> str:
        return f"/local/domain/{self.domid}/device/{self.kind}/{self.devid}"

    @property
    def backend(self) -> str:
        return f"/local/domain/0/backend/{self.kind}/{self.domid}/{self.devid}"

    @property
    def libxl(self) -> str:
        return f"/libxl/{self.domid}/device/{self.kind}/{self.devid}"


class DeviceEntries:
    """Writes, watches and removes devices. Belongs to the event loop's thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def numbers(self, domid: int, kind: str) -> list[int]:
        """The devices of a class that a domain has."""
        with contextlib.suppress(StoreError):
            return sorted(int(devid) for devid in self._store.ls(f"/libxl/{domid}/device/{kind}"))
        return []

    def exists(self, place: DevicePlace) -> bool:
        return self._store.exists(place.libxl)

    def read(self, path: str) -> str:
        return self._store.get(path)

    def state(self, place: DevicePlace) -> int:
        """Of the backend."""
        text = self._store.get(f"{place.backend}/state")
        return int(text) if text.isdigit() else 0

    def write(self, place: DevicePlace, frontend: Mapping[str, str], backend: Mapping[str, str]) -> None:
        """All three folders of a new device, in one transaction."""
        common_backend = {"frontend": place.frontend, "frontend-id": str(place.domid), "online": "1"}
        common_frontend = {"backend": place.backend, "backend-id": "0"}
        state = {"state": str(XenbusStateInitialising)}
        with self._store.transaction() as view:
            # The frontend's folder is the guest's own; the backend's is only read by it.
            view.write(place.frontend, "", [f"n{place.domid}", "r0"])
            for name, value in (common_frontend | state | dict(frontend)).items():
                view.write(f"{place.frontend}/{name}", value)
            view.write(place.backend, "", ["n0", f"r{place.domid}"])
            view.write(place.libxl, "", ["n0"])
            view.write(f"{place.libxl}/frontend", place.frontend)
            view.write(f"{place.libxl}/backend", place.backend)
            for name, value in (common_backend | state | dict(backend)).items():
                view.write(f"{place.backend}/{name}", value)
                if name != "frontend":
                    view.write(f"{place.libxl}/{name}", value)

    async def change(self, place: DevicePlace, entries: Mapping[str, str]) -> str:
        """Write to the backend's folder, and wait until the backend has taken note. -> what it has to say against it, empty for nothing.
        Raises ``ToolstackError``."""
        with self._store.transaction() as view:
            for name, value in {"hotplug-status": "", "hotplug-error": "", **entries}.items():
                view.write(f"{place.backend}/{name}", value)
            for name, value in entries.items():
                view.write(f"{place.libxl}/{name}", value)
        await self.ready(place)
        return self._store.get(f"{place.backend}/hotplug-error")

    async def ready(self, place: DevicePlace) -> None:
        """Wait until the backend has what it needs. Raises ``ToolstackError`` with the backend's own words."""
        status = f"{place.backend}/hotplug-status"
        if not await self._until(status, lambda: self._store.get(status) != ""):
            raise ToolstackError(f"the backend of {place.kind} {place.devid} did not answer in {TIMEOUT:g} s", Fault.TIMEOUT)
        if self._store.get(status) == "error":
            raise ToolstackError(self._store.get(f"{place.backend}/hotplug-error"), Fault.INVALID)

    async def unplug(self, place: DevicePlace) -> None:
        """Ask the guest to give the device back, wait till it has, and forget the device. Raises ``ToolstackError`` when it does not: then
        the device stays, and goes as soon as the guest lets go of it and it is asked again."""
        self._ask_backend_to_close(place)
        if not await self._closed(place):
            raise ToolstackError(
                f"the guest did not give the device back in {TIMEOUT:g} s; it may be in use: try again later, or use --force",
                Fault.TIMEOUT,
            )
        self._remove(place)

    async def destroy(self, place: DevicePlace) -> None:
        """Take the device away, whatever the guest does. When it returns the backend holds nothing of the guest, unless its I/O hangs."""
        with contextlib.suppress(StoreError):
            self._store.rm(place.frontend)
        self._ask_backend_to_close(place)
        await self._closed(place)
        self._remove(place)

    def _ask_backend_to_close(self, place: DevicePlace) -> None:
        if self.state(place) not in (0, XenbusStateClosed):
            with self._store.transaction() as view:
                view.write(f"{place.backend}/online", "0")
                view.write(f"{place.backend}/state", str(XenbusStateClosing))

    async def _closed(self, place: DevicePlace) -> bool:
        return await self._until(f"{place.backend}/state", lambda: self.state(place) in (0, XenbusStateClosed))

    def _remove(self, place: DevicePlace) -> None:
        for path in (place.frontend, place.backend, place.libxl):
            remove_with_empty_folders(self._store, path)

    async def _until(self, path: str, holds: Callable[[], bool]) -> bool:
        """Whether it holds before the time is over; looked at whenever ``path`` changes."""
        changed = asyncio.Event()
        stop = self._store.watch(path, "toolstack", lambda _path, _token: changed.set())
        try:
            async with asyncio.timeout(TIMEOUT):
                while not holds():
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            return False
        finally:
            stop()
        return True
