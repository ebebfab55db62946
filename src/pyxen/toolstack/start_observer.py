"""Adds to a domain's timeline what its guest does: the first instruction, the first output, the store, its devices."""

from __future__ import annotations

import time
from collections.abc import Callable

from pyxen.abi.io.xenbus import XenbusStateConnected
from pyxen.backends.console import GuestConsole
from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.timeline import Stage, Timeline


class StartObserver:
    """Watches one domain until all that was expected has happened, or ``stop``. Belongs to the event loop's thread."""

    def __init__(self, dom0: Dom0Hypercalls, store: DomainStore, domid: int, timeline: Timeline) -> None:
        self._dom0 = dom0
        self._store = store
        self._domid = domid
        self._timeline = timeline
        self._devices = {device: _connected(device) for device in store.devices(domid)}
        self._stop_watching: Callable[[], None] | None = None
        for stage in self._devices.values():
            timeline.expect(stage)

    def start(self, console: GuestConsole) -> None:
        """Before the domain runs."""
        if self._devices:
            self._stop_watching = self._store.watch_devices(self._domid, self._devices, self._device_changed)
        console.on_first_output(self._first_output)

    def refresh(self) -> None:
        """Add what nobody tells of: the first instruction, the first request to the store."""
        if not self._timeline.has(Stage.FIRST_INSTRUCTION):
            try:
                executing_for_ns = self._dom0.domain_info(self._domid).executing_for_ns
            except HypercallError:
                return  # it is gone
            if executing_for_ns is not None:
                self._timeline.reach(Stage.FIRST_INSTRUCTION, time.monotonic() - executing_for_ns / 1e9)
        asked = self._store.first_request_time(self._domid)
        if asked is not None:
            self._timeline.reach(Stage.STORE_USED, asked)

    def stop(self) -> None:
        """The domain is about to go."""
        self.refresh()
        self._end_watch()

    def _first_output(self) -> None:
        now = time.monotonic()
        self.refresh()
        self._timeline.reach(Stage.FIRST_BYTE, now)

    def _device_changed(self) -> None:
        for device, stage in self._devices.items():
            if self._store.device_state(self._domid, device) == XenbusStateConnected:
                self._timeline.reach(stage)
        if all(self._timeline.has(stage) for stage in self._devices.values()):
            self.refresh()  # it has used the store
            self._end_watch()

    def _end_watch(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
            self._stop_watching = None


def _connected(device: str) -> str:
    return f"{device} connected"
