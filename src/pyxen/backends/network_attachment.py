"""What a vif can be attached to, as seen from the vif; and the vif, as seen from there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from pyxen.backends.network_frame import Frame


class VifPort(Protocol):
    """The vif's end. Belongs to the event loop's thread."""

    @property
    def name(self) -> str:
        """ "vif1.0", for logs and host interfaces."""

    @property
    def mac(self) -> bytes:
        """The guest's address: six octets."""

    @property
    def mtu(self) -> int:
        """As configured; 0: the attachment's own."""

    def deliver(self, frames: Sequence[Frame]) -> None:
        """Frames for the guest. What it has no room for is dropped."""

    def has_room(self) -> bool:
        """Whether the guest keeps up. When it does again, ``Attachment.guest_has_room`` is called."""

    def resume(self) -> None:
        """The attachment can take frames again."""


class Attachment(ABC):
    """Where a vif's frames go and come from. Belongs to the event loop's thread. It outlives a vif whose backend is restarted."""

    def __init__(self, port: VifPort) -> None:
        self.port = port

    def move(self, port: VifPort) -> None:
        """The same vif has another backend now."""
        self.port = port

    @abstractmethod
    async def open(self) -> None:
        """Raises ``DeviceError`` with one line for the user; then nothing is held."""

    @abstractmethod
    async def close(self) -> None:
        """Give everything back. May be called again, and without ``open``."""

    @abstractmethod
    def send(self, frames: Sequence[Frame]) -> None:
        """Frames from the guest."""

    def may_send(self) -> bool:
        """Whether it takes more now. If not, it calls ``VifPort.resume`` when it does."""
        return True

    def guest_has_room(self) -> None:
        """After ``VifPort.has_room`` was false. One that drops what the guest has no room for need not care."""
        return
