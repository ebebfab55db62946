"""What connects the store with a guest: its shared page and event channel, and who sets them up."""

from __future__ import annotations

import enum
import errno
import logging
from collections.abc import Callable
from typing import Protocol

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.single_turn import SingleTurn

log = logging.getLogger("pyxen.xenstore")


class DomainState(enum.Enum):
    """What the store needs to know of a domain."""

    ALIVE = enum.auto()
    SHUTDOWN = enum.auto()  #: shut down or crashed, still there
    GONE = enum.auto()


class GuestLink(Protocol):
    """The connection to one guest."""

    page: memoryview  #: struct xenstore_domain_interface, writable, shared with the guest

    def notify(self) -> None:
        """Send an event to the guest."""

    def close(self) -> None:
        """Close the event channel and unmap the page."""


class GuestConnector(Protocol):
    """Sets up the links to guests, and knows which domains there are."""

    def connect(self, domid: int, gfn: int, port: int, on_event: Callable[[], None]) -> GuestLink:
        """Map the page and bind the guest's ``port``. ``on_event`` runs in the store's thread for each event of the guest.
        Raises StoreError."""

    def domain_state(self, domid: int) -> DomainState:
        """Whether a domain is alive."""


class HypercallLink:
    """A link made of hypercalls of Domain 0."""

    def __init__(self, hypercalls: Dom0Hypercalls, domid: int, mfn: int, port: int, on_event: Callable[[], None]) -> None:
        self._hypercalls = hypercalls
        self._domid = domid
        self._mfn = mfn
        self.page = hypercalls.map_foreign(domid, mfn)
        try:
            self._local_port = hypercalls.bind_interdomain(domid, port, on_event)
        except HypercallError:
            self._unmap()
            raise

    def notify(self) -> None:
        """Send an event to the guest. StoreError when the event channel is gone."""
        try:
            self._hypercalls.notify(self._local_port)
        except HypercallError as error:
            raise StoreError(error.errno, error.reason) from error

    def close(self) -> None:
        """Give everything back. What the domain's end has taken away already is no error."""
        try:
            self._hypercalls.close_port(self._local_port)
        except HypercallError as error:
            log.debug("domain %d: closing the store's port: %s", self._domid, error)
        self._unmap()

    def _unmap(self) -> None:
        try:
            self._hypercalls.unmap_foreign(self._domid, self._mfn)
        except HypercallError as error:
            log.debug("domain %d: unmapping the store's page: %s", self._domid, error)


class HypercallConnector:
    """The connector of the embedded Domain 0. ``call_in_loop`` hands a callback to the store's thread from any thread
    (``loop.call_soon_threadsafe``). For a PV domain, ``gfn`` is an MFN."""

    def __init__(self, hypercalls: Dom0Hypercalls, call_in_loop: Callable[[Callable[[], None]], object]) -> None:
        self._hypercalls = hypercalls
        self._call_in_loop = call_in_loop

    def connect(self, domid: int, gfn: int, port: int, on_event: Callable[[], None]) -> GuestLink:
        """See GuestConnector."""
        try:
            return HypercallLink(self._hypercalls, domid, gfn, port, SingleTurn(on_event, self._call_in_loop).ask)
        except HypercallError as error:
            raise StoreError(error.errno, f"domain {domid}: {error.reason}") from error

    def domain_state(self, domid: int) -> DomainState:
        """See GuestConnector."""
        try:
            info = self._hypercalls.domain_info(domid)
        except HypercallError as error:
            if error.errno == errno.ESRCH:
                return DomainState.GONE
            raise StoreError(error.errno, error.reason) from error
        if info.dying:
            return DomainState.GONE
        return DomainState.SHUTDOWN if info.shutdown else DomainState.ALIVE
