"""Virtual switches inside the host process: vifs on the same one reach each other, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pyxen.backends.network_attachment import Attachment, VifPort
from pyxen.backends.network_frame import Frame

#: A guest may send from as many addresses as it likes; the table is bounded (Linux's bridge has no bound by default).
_MAX_ADDRESSES = 4096
#: Seconds after which an address that was not heard of is forgotten, as Linux's bridges do.
_LIFETIME = 300.0


class Switch:
    """A learning switch. Belongs to the event loop's thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._ports: list[VifPort] = []
        self._addresses: dict[bytes, tuple[VifPort, float]] = {}

    @property
    def is_empty(self) -> bool:
        return not self._ports

    def add(self, port: VifPort) -> None:
        self._ports.append(port)

    def remove(self, port: VifPort) -> None:
        self._ports.remove(port)
        self._addresses = {address: entry for address, entry in self._addresses.items() if entry[0] is not port}

    def replace(self, port: VifPort, successor: VifPort) -> None:
        """What was learned stays."""
        self._ports[self._ports.index(port)] = successor
        for address, (owner, heard) in self._addresses.items():
            if owner is port:
                self._addresses[address] = successor, heard

    def forward(self, source: VifPort, frames: Sequence[Frame]) -> None:
        """Frames from one port to those that they are for. Frames in a row for the same port go in one call."""
        now = time.monotonic()
        run: list[Frame] = []
        last: VifPort | None = None
        for frame in frames:
            self._learn(frame.source, source, now)
            target = None if frame.is_multicast else self._find(frame.destination, now)
            if target is not last and run:
                self._pass(source, last, run)
                run = []
            last = target
            run.append(frame)
        if run:
            self._pass(source, last, run)

    def _pass(self, source: VifPort, target: VifPort | None, frames: Sequence[Frame]) -> None:
        for port in (target,) if target is not None else list(self._ports):
            if port is not source:
                port.deliver(frames)

    def _learn(self, address: bytes, port: VifPort, now: float) -> None:
        if address[0] & 1:
            return
        if address not in self._addresses and len(self._addresses) >= _MAX_ADDRESSES:
            self._forget_old(now)
            if len(self._addresses) >= _MAX_ADDRESSES:
                return
        self._addresses[address] = (port, now)

    def _find(self, address: bytes, now: float) -> VifPort | None:
        entry = self._addresses.get(address)
        return entry[0] if entry is not None and now - entry[1] < _LIFETIME else None

    def _forget_old(self, now: float) -> None:
        self._addresses = {address: entry for address, entry in self._addresses.items() if now - entry[1] < _LIFETIME}


class Switches:
    """All switches of a host. One exists as long as something is attached to it."""

    def __init__(self) -> None:
        self._switches: dict[str, Switch] = {}

    def attach(self, name: str, port: VifPort) -> Switch:
        switch = self._switches.setdefault(name, Switch(name))
        switch.add(port)
        return switch

    def detach(self, switch: Switch, port: VifPort) -> None:
        switch.remove(port)
        if switch.is_empty:
            del self._switches[switch.name]


class SwitchAttachment(Attachment):
    """A vif's place on a switch."""

    def __init__(self, port: VifPort, switches: Switches, name: str) -> None:
        super().__init__(port)
        self._switches = switches
        self._name = name
        self._switch: Switch | None = None

    async def open(self) -> None:
        """Always works: the switch is made if there is none of that name."""
        self._switch = self._switches.attach(self._name, self.port)

    def move(self, port: VifPort) -> None:
        """See ``Attachment``."""
        if self._switch is not None:
            self._switch.replace(self.port, port)
        super().move(port)

    async def close(self) -> None:
        if self._switch is not None:
            self._switches.detach(self._switch, self.port)
            self._switch = None

    def send(self, frames: Sequence[Frame]) -> None:
        if self._switch is not None:
            self._switch.forward(self.port, frames)
