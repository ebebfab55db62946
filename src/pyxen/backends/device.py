"""One device of a backend, and its conversation with its frontend through the store (XenBus, public header io/xenbus.h).

What xenbus_probe_backend.c and xenbus_client.c are to Linux's backends. A protocol derives from ``BackendDevice`` and says what it does
when the device appears, when a frontend connects and when it leaves; the rest is here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from pyxen.abi.io.xenbus import (
    XenbusStateClosed,
    XenbusStateClosing,
    XenbusStateConnected,
    XenbusStateInitialised,
    XenbusStateInitialising,
    XenbusStateInitWait,
    XenbusStateReconfigured,
    XenbusStateUnknown,
)
from pyxen.backends.helper_program import HelperPrograms, NoHelperPrograms
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.path_cleanup import remove_with_empty_folders
from pyxen.xenstore.store import Store

_logger = logging.getLogger(__name__)

_ERROR_FOLDER = "/local/domain/0/error"
_NUMBER_DIGITS = 20


class DeviceError(Exception):
    """The device can't go on: its frontend or its configuration is at fault. ``number`` is an errno; ``str()`` is one line."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number


@dataclass(frozen=True)
class Surroundings:
    """What a backend lives in: Domain 0's hypercalls, its store, its event loop and the programs it may start."""

    dom0: Dom0Hypercalls
    store: Store
    loop: asyncio.AbstractEventLoop
    helpers: HelperPrograms = NoHelperPrograms()


@dataclass(frozen=True)
class DeviceAddress:
    """Which device: its class as in backend paths ("vbd", "vif"), its guest, its number."""

    kind: str
    domid: int
    devid: int

    @property
    def backend_path(self) -> str:
        return f"/local/domain/0/backend/{self.kind}/{self.domid}/{self.devid}"

    @property
    def error_path(self) -> str:
        return f"{_ERROR_FOLDER}/backend/{self.kind}/{self.domid}/{self.devid}"

    def __str__(self) -> str:
        return f"{self.kind}-{self.domid}-{self.devid}"


class BackendDevice(ABC):
    """A device's life. Belongs to the event loop's thread; one task makes all changes of state, one after the other.

    The backend's folder is written by Domain 0 only, and is trusted. The frontend's is the guest's: what is read there is not.
    """

    def __init__(self, surroundings: Surroundings, address: DeviceAddress) -> None:
        self.address = address
        self.dom0, self.store, self.loop, self.helpers = surroundings.dom0, surroundings.store, surroundings.loop, surroundings.helpers
        self._frontend = self.store.get(f"{address.backend_path}/frontend")
        self.finished = False  #: it holds nothing any more; its folder in the store waits for the toolstack
        #: What to do when the backend itself has failed; the bus starts the device anew.
        self.on_crash: Callable[[Exception], None] = lambda error: self.fail(DeviceError(errno.EIO, f"internal error: {error!r}"))
        #: Starts the device anew, because what it was made of has changed.
        self.on_change: Callable[[], None] = lambda: None
        #: What a device that was restarted left for this one (``legacy``); None for one that begins.
        self.inheritance: object | None = None
        self._connected = False
        self._fault: DeviceError | None = None
        self._changed = asyncio.Event()
        self._stop_watches: list[Callable[[], None]] = []
        self._ending = asyncio.Lock()
        self._task = self.loop.create_task(self._live())

    # -- what a protocol does -----------------------------------------------------------------------------------------
    @abstractmethod
    async def open(self) -> None:
        """The device has appeared: get what it needs, and write to the backend's folder what a frontend negotiates by.
        Raises ``DeviceError``."""

    @abstractmethod
    async def connect(self) -> None:
        """The frontend has written its part: map its rings, and write what it reads when connected. Raises ``DeviceError``, and then
        ``disconnect`` is called."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Let go of the guest: nothing of it may be mapped or bound at the end. Also after a ``connect`` that failed half-way."""

    @abstractmethod
    async def release(self) -> None:
        """Give back what ``open`` got, as far as it came. May be called again."""

    def legacy(self) -> object | None:
        """After ``disconnect``: what a new device of this address needs to go on with the same frontend, which knows of nothing, as if
        nothing had been; it finds that as its ``inheritance`` when it connects. For rings: where they were, and what was taken off them
        and not answered."""
        return None

    # -- what a protocol uses -----------------------------------------------------------------------------------------
    def backend_value(self, name: str, default: str = "") -> str:
        """A value of the backend's own folder."""
        return self.store.get(f"{self.address.backend_path}/{name}", default)

    def publish(self, **entries: object) -> None:
        """Write to the backend's folder; "_" in names stands for "-"."""
        for name, value in entries.items():
            self._write_if_present(name.replace("_", "-"), str(value))

    def frontend_text(self, name: str) -> str:
        """What the frontend wrote, empty if nothing. Not trusted."""
        try:
            return self.store.get(f"{self._frontend}/{name}")
        except StoreError as error:
            raise DeviceError(errno.EINVAL, f"reading {name}: {error}") from None

    def frontend_number(self, name: str, minimum: int, maximum: int, default: int | None = None) -> int:
        """A number that the frontend wrote, within bounds (both included). ``default`` if it is not there. Raises ``DeviceError``."""
        untrusted_text = self.frontend_text(name)
        if not untrusted_text and default is not None:
            return default
        if not (untrusted_text.isascii() and untrusted_text.isdigit() and len(untrusted_text) <= _NUMBER_DIGITS):
            raise DeviceError(errno.EINVAL, f"reading {name}: {untrusted_text[:40]!a} is no number")
        number = int(untrusted_text)
        if not minimum <= number <= maximum:
            raise DeviceError(errno.EINVAL, f"reading {name}: {number} is not within {minimum}..{maximum}")
        return number

    def fail(self, error: DeviceError) -> None:
        """The frontend has broken the protocol: report it and close the device (xenbus_dev_fatal). In the loop's thread."""
        self._fault = self._fault or error
        self._changed.set()

    def crash(self, error: Exception) -> None:
        """The backend has failed, by no fault of the frontend: have the device restarted. In the loop's thread."""
        _logger.error("%s: internal error", self.address, exc_info=error)
        self.on_crash(error)

    @property
    def is_new(self) -> bool:
        """The toolstack waits for the device to appear. Otherwise it was restarted."""
        return self._own_state() == XenbusStateInitialising

    def announce_change(self) -> None:
        """Have a connected frontend read the backend's entries again (a disk's size)."""
        if self._own_state() == XenbusStateConnected:
            self._write_if_present("state", str(XenbusStateConnected))

    async def abandon(self) -> object | None:
        """Stop without a word to the frontend, and without answering what it has asked for. When it returns, nothing of the guest is
        held. -> ``legacy``."""
        async with self._ending:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            for stop in self._stop_watches:
                stop()
            self._stop_watches.clear()
            await self._disconnect()
            await self.release()
            return self.legacy()

    async def close(self) -> None:
        """The device is no more. When it returns, nothing of the guest is held."""
        await self.abandon()
        remove_with_empty_folders(self.store, self.address.error_path)

    # -- the state machine --------------------------------------------------------------------------------------------
    async def _live(self) -> None:
        try:
            await self.open()
        except DeviceError as error:
            await self._refuse(str(error))
            return
        except Exception as error:
            _logger.exception("%s: opening the device failed", self.address)
            await self._refuse(f"internal error: {type(error).__name__}: {error}; details are in the host's log")
            return
        self._write_if_present("hotplug-status", "connected")
        if self.is_new:
            self._switch(XenbusStateInitWait)
        for path in (f"{self._frontend}/state", f"{self.address.backend_path}/online"):
            self._stop_watches.append(self.store.watch(path, str(self.address), lambda _path, _token: self._changed.set()))
        while not self.finished:
            await self._changed.wait()
            self._changed.clear()
            try:
                await self._step()
            except DeviceError as error:
                await self._give_up(error)
                self._changed.set()  # the frontend's state may have changed too, and nothing more tells of it
            except Exception as error:
                self.crash(error)

    async def _refuse(self, reason: str) -> None:
        """There will be no device: tell the toolstack, as the hotplug scripts of Xen do."""
        _logger.warning("%s: %s", self.address, reason)
        self._write_if_present("hotplug-error", reason)
        self._write_if_present("hotplug-status", "error")
        await self._finish()

    async def _step(self) -> None:
        """Answer what the frontend's state is now. Whatever was in between, and was too short to be seen, does not matter."""
        frontend, own = self._frontend_state(), self._own_state()
        fault, self._fault = self._fault, None
        if fault is not None and frontend != XenbusStateInitialising:
            raise fault
        if frontend == XenbusStateInitialising:
            # Also a frontend that starts anew without having closed: a guest's new kernel after a crash.
            if self._connected or own in (XenbusStateClosing, XenbusStateClosed):
                await self._disconnect()
                if self._is_online():
                    self._switch(XenbusStateInitWait)
        elif frontend in (XenbusStateInitialised, XenbusStateConnected, XenbusStateReconfigured):
            # Connected, and we are not: the device was restarted, and its frontend knows of nothing.
            if own in (XenbusStateInitWait, XenbusStateConnected) and not self._connected:
                if own == XenbusStateInitWait:
                    self.inheritance = None  # the frontend has begun anew since
                await self._connect()
        elif frontend == XenbusStateClosing:
            if own != XenbusStateClosed:
                self._switch(XenbusStateClosing)
        elif frontend in (XenbusStateClosed, XenbusStateUnknown):
            await self._disconnect()
            if self._is_online():
                self._switch(XenbusStateClosed)
        if not self._connected and not self._is_online() and frontend != XenbusStateClosing:
            await self._finish()

    async def _finish(self) -> None:
        """The last state. Who sees it may have the image at once, and a device of the same number."""
        await self.release()
        self.finished = True
        self._switch(XenbusStateClosed)

    async def _connect(self) -> None:
        self._connected = True
        await self.connect()
        self._switch(XenbusStateConnected)

    async def _disconnect(self) -> None:
        if self._connected:
            await self.disconnect()
            self._connected = False
            self._fault = None  # it was one of this connection

    async def _give_up(self, error: DeviceError) -> None:
        await self._disconnect()
        self._report(error)
        self._switch(XenbusStateClosing)

    def _report(self, error: DeviceError) -> None:
        """Where the guest's administrator and Domain 0's look: as xenbus_dev_fatal, and in the host's log."""
        _logger.warning("%s: %s", self.address, error)
        if self.store.exists(self.address.backend_path):
            self.store.write(f"{self.address.error_path}/error", f"{error.number} {error}")

    def _frontend_state(self) -> int:
        try:
            return self.frontend_number("state", XenbusStateUnknown, XenbusStateReconfigured, XenbusStateUnknown)
        except DeviceError:
            return XenbusStateUnknown

    def _own_state(self) -> int:
        text = self.backend_value("state")
        return int(text) if text.isdigit() else XenbusStateUnknown

    def _is_online(self) -> bool:
        return self.backend_value("online") == "1"

    def _switch(self, state: int) -> None:
        if self._own_state() != state:
            self._write_if_present("state", str(state))

    def _write_if_present(self, name: str, value: str) -> None:
        """Not if the toolstack has removed the device meanwhile: writing would make a part of it anew."""
        if self.store.exists(f"{self.address.backend_path}/state"):
            self.store.write(f"{self.address.backend_path}/{name}", value)
