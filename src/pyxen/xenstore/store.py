"""The store as the toolstack and the backends in the embedded Domain 0 use it: direct calls, with Domain 0's rights.

    store = Store(daemon)
    store.write("/local/domain/1/name", "guest")
    with store.transaction() as transaction:
        transaction.write("/local/domain/1/memory/target", "262144")
    unwatch = store.watch("/local/domain/1/device", "devices", lambda path, token: print(path))

All calls belong into the thread of the loop, and nothing else happens in the store during one.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pyxen.xenstore import paths, permissions
from pyxen.xenstore.client import Client
from pyxen.xenstore.daemon import Daemon
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.guest_link import GuestLink
from pyxen.xenstore.operations import DOMAIN_0, Operations
from pyxen.xenstore.transactions import Transaction

log = logging.getLogger("pyxen.xenstore")

WatchCallback = Callable[[str, str], None]


class View:
    """Reading and changing nodes, outside of transactions or in one. Paths are absolute, or relative to /local/domain/0.

    Values are text; bytes that are not UTF-8 come as surrogate escapes, and go back the same. Every method raises StoreError, with
    ENOENT for a path that is not there and EINVAL for one that is malformed.
    """

    def __init__(self, operations: Operations, transaction: Transaction | None) -> None:
        self._operations = operations
        self._transaction = transaction

    @staticmethod
    def _path(path: str) -> str:
        return paths.absolute(path, paths.domain_path(0))

    def read(self, path: str) -> str:
        """The value of a node."""
        return self.read_bytes(path).decode("utf-8", "surrogateescape")

    def read_bytes(self, path: str) -> bytes:
        """The value of a node as it is."""
        return self._operations.read(DOMAIN_0, self._transaction, self._path(path))

    def get(self, path: str, default: str = "") -> str:
        """The value of a node, or ``default`` if it is not there."""
        try:
            return self.read(path)
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return default

    def write(self, path: str, value: str | bytes, perms: Sequence[str] | None = None) -> None:
        """Set a node's value, and its permissions if given (as ``set_perms``). Missing nodes on the way are made."""
        data = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
        self._operations.write(DOMAIN_0, self._transaction, self._path(path), data)
        if perms is not None:
            self.set_perms(path, perms)

    def mkdir(self, path: str, perms: Sequence[str] | None = None) -> None:
        """Make a node unless it is there; set its permissions if given."""
        self._operations.mkdir(DOMAIN_0, self._transaction, self._path(path))
        if perms is not None:
            self.set_perms(path, perms)

    def rm(self, path: str) -> None:
        """Remove a node and all below it. That it is not there is no error, that its parent is not there is."""
        self._operations.remove(DOMAIN_0, self._transaction, self._path(path))

    def ls(self, path: str) -> list[str]:
        """Names of the children, in the order in which they were made."""
        return self._operations.directory(DOMAIN_0, self._transaction, self._path(path))[1]

    def exists(self, path: str) -> bool:
        """Whether a node is there."""
        try:
            self.read_bytes(path)
        except StoreError as error:
            if error.errno != errno.ENOENT:
                raise
            return False
        return True

    def get_perms(self, path: str) -> list[str]:
        """Permissions as ``["n0", "r5"]``, the owner first."""
        return [str(entry) for entry in self._operations.get_permissions(DOMAIN_0, self._transaction, self._path_or_special(path))]

    def set_perms(self, path: str, perms: Sequence[str]) -> None:
        """Set permissions: ``n``, ``r``, ``w`` or ``b`` and a domain id each; the first names the owner and what all others may."""
        self._operations.set_permissions(DOMAIN_0, self._transaction, self._path_or_special(path), permissions.parse(perms))

    def _path_or_special(self, path: str) -> str:
        return paths.check_special(path) if paths.is_special(path) else self._path(path)


class _LocalClient(Client):
    """Has one transaction or the watch of one callback. Callbacks run from the loop, not in the middle of the change that they are
    told."""

    def __init__(self, daemon: Daemon, callback: WatchCallback | None = None) -> None:
        super().__init__(0, privileged=True)
        self._daemon = daemon
        self._callback = callback
        daemon.clients.add(self)

    def watch_event(self, path: str, token: bytes) -> None:
        """Have the callback called."""
        self._daemon.scheduler.call_soon(lambda: self._call(path, token.decode("utf-8", "surrogateescape")))

    def _call(self, path: str, token: str) -> None:
        if self._callback is None:
            return
        try:
            self._callback(path, token)
        except Exception:
            log.exception("watch on %s (token %s): the callback failed", path, token)

    def stop(self) -> None:
        """No more calls, not even for events that have happened."""
        self._callback = None
        self._daemon.forget(self)


class _SimpleLink:
    """A link whose page and event channel somebody else set up."""

    def __init__(self, page: memoryview, notify: Callable[[], None]) -> None:
        self.page = page
        self._notify = notify

    def notify(self) -> None:
        """Send an event to the guest."""
        self._notify()

    def close(self) -> None:
        """They stay whoever's they are."""


class Store(View):
    """Domain 0's view of the store, outside of transactions."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon.operations, None)
        self._daemon = daemon

    @contextmanager
    def transaction(self) -> Iterator[View]:
        """A transaction: committed when the block ends, dropped when it raises. StoreError EAGAIN at the end if what it read or changed
        was changed meanwhile: only a block that awaits something has to expect that."""
        client = _LocalClient(self._daemon)
        transaction = client.start_transaction(self._operations.tree)
        try:
            yield View(self._operations, transaction)
            self._operations.end(transaction)
        finally:
            client.stop()

    def watch(self, path: str, token: str, callback: WatchCallback, depth: int | None = None) -> Callable[[], None]:
        """Call ``callback(path, token)`` soon, and then for each change of ``path`` or, down to ``depth`` levels (None: all), below it.
        A relative path is reported relative. ``path`` may be ``@introduceDomain`` or ``@releaseDomain``, with depth 1 to be told
        which domain. -> a function that ends the watch."""
        data = token.encode("utf-8", "surrogateescape")
        client = _LocalClient(self._daemon, callback)
        try:
            self._daemon.add_watch(client, path, data, depth)
        except StoreError:
            client.stop()
            raise
        client.watch_event(path, data)
        return client.stop

    # -- domains -----------------------------------------------------------------------------------------------------
    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Talk to a domain through the page ``gfn`` (PV: an MFN) and its event channel ``port``, as XS_INTRODUCE."""
        self._daemon.introduce(domid, gfn, port)

    def introduce_domain(self, domid: int, page: memoryview, port: int, notify: Callable[[], None]) -> Callable[[], None]:
        """Talk to a domain through a page and an event channel that the caller has set up (``port`` is the guest's, for the log).
        -> what to call, in the loop's thread, at each event of the guest."""
        log.debug("domain %d: store page given by the caller, guest's port %d", domid, port)
        return self._daemon.introduce_with(domid, lambda on_event: self._link(page, notify)).turn

    @staticmethod
    def _link(page: memoryview, notify: Callable[[], None]) -> GuestLink:
        return _SimpleLink(page, notify)

    def release_domain(self, domid: int) -> None:
        """Talk to the domain no longer; remove its watches, transactions, nodes and permissions. ENOENT if it is not introduced."""
        self._daemon.release(domid)

    def is_introduced(self, domid: int) -> bool:
        """Whether the store talks to a domain."""
        return self._daemon.is_introduced(domid)

    def first_request_time(self, domid: int) -> float | None:
        """When an introduced domain first asked something of the store, by the loop's clock; None: it has not."""
        guest = self._daemon.guests.get(domid)
        return None if guest is None else guest.connection.first_request_at

    def domain_path(self, domid: int) -> str:
        """``/local/domain/<domid>``."""
        return paths.domain_path(domid)

    def check_domains(self) -> None:
        """Look which domains have shut down or died; for VIRQ_DOM_EXC."""
        self._daemon.check_domains()
