"""The store daemon: who its clients are, which domains it talks to, and the way of a request from a client to an answer."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable

from pyxen.abi.io import xs_wire
from pyxen.xenstore import paths
from pyxen.xenstore.client import Client, Connection, Scheduler
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.guest_link import DomainState, GuestConnector, GuestLink
from pyxen.xenstore.operations import DOMAIN_0, Operations
from pyxen.xenstore.quotas import Quotas, passes
from pyxen.xenstore.requests import COMMANDS, Command
from pyxen.xenstore.ring import RingConnection
from pyxen.xenstore.transactions import Transaction
from pyxen.xenstore.watches import INTRODUCE_DOMAIN, RELEASE_DOMAIN, Watch, WatchRegistry, check_special_depth
from pyxen.xenstore.wire import Message, pack

log = logging.getLogger("pyxen.xenstore")
trace = logging.getLogger("pyxen.xenstore.trace")

#: Nodes that are there from the start.
INITIAL_NODES = ("/tool/xenstored", "/local/domain", "/vm")


class Guest:
    """An introduced domain."""

    def __init__(self, connection: RingConnection) -> None:
        self.connection = connection
        self.shutdown_told = False  #: @releaseDomain has been sent for its shutdown


class Daemon:
    """The store. Everything runs in one thread: that of ``scheduler``, an asyncio loop."""

    def __init__(self, scheduler: Scheduler, connector: GuestConnector | None = None, quotas: Quotas | None = None) -> None:
        self.scheduler = scheduler
        self.quotas = quotas or Quotas()
        self.watches = WatchRegistry()
        self.operations = Operations(self.watches, self.quotas)
        self.clients: set[Client] = set()
        self.guests: dict[int, Guest] = {}
        self.tracing = False
        self.requests = 0
        self._connector = connector
        for path in INITIAL_NODES:
            self.operations.mkdir(DOMAIN_0, None, path)

    # -- requests ----------------------------------------------------------------------------------------------------
    def handle(self, client: Connection, message: Message) -> None:
        """Answer a request: exactly one reply is queued, whatever is in the message."""
        self.requests += 1
        command = COMMANDS.get(message.type)
        try:
            payload = self._execute(client, command, message)
            reply_type = message.type
        except StoreError as error:
            reply_type, payload = xs_wire.XS_ERROR, error.wire_name.encode("ascii") + b"\0"
        if self.tracing:
            trace.info("%s: %s %r -> %r", client.name, command.name if command else message.type, message.payload[:256], payload[:256])
        client.reply(pack(reply_type, message.request_id, message.transaction_id, payload))
        if command is not None and reply_type == xs_wire.XS_WATCH:
            self._tell_new_watch(client, message)

    def _execute(self, client: Connection, command: Command | None, message: Message) -> bytes:
        if command is None:
            raise StoreError(errno.ENOSYS, f"no message type {message.type}")
        if command.privileged and not client.privileged:
            raise StoreError(errno.EACCES, f"{command.name} is for Domain 0")
        transaction: Transaction | None = None
        if command.uses_transaction and message.transaction_id:
            transaction = client.transactions.get(message.transaction_id)
            if transaction is None:
                raise StoreError(errno.ENOENT, f"no transaction {message.transaction_id}")
        payload = command.handler(self, client, transaction, message.payload)
        if len(payload) > xs_wire.XENSTORE_PAYLOAD_MAX:
            raise StoreError(errno.E2BIG, "the answer is too long")
        return payload

    def _tell_new_watch(self, client: Connection, message: Message) -> None:
        """A new watch fires once at once, after the reply to its request."""
        path, token = message.payload.split(b"\0")[:2]
        client.watch_event(path.decode("latin-1"), token)

    def add_watch(self, client: Client, untrusted_path: str, token: bytes, depth: int | None) -> None:
        """Set up a watch. EINVAL, EEXIST, E2BIG (quota)."""
        base: str | None = None
        if paths.is_special(untrusted_path):
            path = paths.check_special(untrusted_path)
            check_special_depth(path, depth)
        else:
            path = paths.absolute(untrusted_path, client.base)
            paths.split(path)
            if not untrusted_path.startswith("/"):
                base = client.base
        if not client.privileged:
            if not passes(self.watches.count(client) + 1, self.quotas.watches):
                raise StoreError(errno.E2BIG, "too many watches")
            if not passes(self.memory_of(client) + len(path) + len(token), self.quotas.memory):
                raise StoreError(errno.ENOMEM, f"domain {client.domid} uses too much memory")
        self.watches.add(Watch(client, path, token, base, depth))

    def memory_of(self, client: Client) -> int:
        """Bytes that count against a client's memory quota."""
        queued = client.memory if isinstance(client, Connection) else 0
        return self.operations.tree.usage_of(client.domid).memory + self.watches.memory(client) + queued

    def forget(self, client: Client) -> None:
        """A client is gone, with all that it had open."""
        self.watches.remove_all(client)
        client.transactions.clear()
        self.clients.discard(client)

    # -- domains -----------------------------------------------------------------------------------------------------
    def is_introduced(self, domid: int) -> bool:
        """Whether the store talks to a domain. With Domain 0 it always does."""
        return domid == 0 or domid in self.guests

    def check_domains_exist(self, domids: Iterable[int]) -> None:
        """ENOENT when one of the domains is known not to exist."""
        for domid in domids:
            if domid and domid not in self.guests and self._connector is not None:
                if self._connector.domain_state(domid) is DomainState.GONE:
                    raise StoreError(errno.ENOENT, f"there is no domain {domid}")

    def introduce(self, domid: int, gfn: int, port: int) -> RingConnection:
        """XS_INTRODUCE: talk to a domain through its page and port. A domain that is introduced already starts anew with these."""
        connector = self._connector
        if connector is None:
            raise StoreError(errno.ENOSYS, "this store can't reach domains")
        return self.introduce_with(domid, lambda on_event: connector.connect(domid, gfn, port, on_event))

    def introduce_with(self, domid: int, connect: Callable[[Callable[[], None]], GuestLink]) -> RingConnection:
        """Introduce a domain whose link ``connect`` makes; it is given what to call at each event of the guest."""
        former = self.guests.get(domid)
        if former is not None:
            self._disconnect(former.connection)
        connection = RingConnection(self, domid)
        try:
            connection.attach(connect(connection.turn))
        except StoreError:
            self.guests.pop(domid, None)
            raise
        self.clients.add(connection)
        self.guests[domid] = Guest(connection)
        if former is None:
            log.info("domain %d introduced", domid)
            self.watches.tell_special(INTRODUCE_DOMAIN, domid)
        return connection

    def _disconnect(self, connection: RingConnection) -> None:
        connection.close()
        self.forget(connection)

    def release(self, domid: int) -> None:
        """XS_RELEASE, or the domain has died: its connection, nodes and permissions go. ENOENT if it is not introduced."""
        guest = self._guest(domid)
        del self.guests[domid]
        self._disconnect(guest.connection)
        for client in self.clients:
            if client.target == domid:
                client.target = None
            for transaction in client.transactions.values():
                transaction.domain_died(domid)
        self.operations.forget_domain(domid)
        log.info("domain %d released", domid)
        self.watches.tell_special(RELEASE_DOMAIN, domid)

    def resume(self, domid: int) -> None:
        """XS_RESUME: the next shutdown of the domain is told again. ENOENT."""
        self._guest(domid).shutdown_told = False

    def set_target(self, domid: int, target: int) -> None:
        """XS_SET_TARGET: ``domid`` gets the rights of ``target``. ENOENT."""
        self._guest(target)
        self._guest(domid).connection.target = target

    def check_domains(self) -> None:
        """Look which domains have shut down or died: to be called at every VIRQ_DOM_EXC, in the loop's thread."""
        if self._connector is None:
            return
        for domid, guest in list(self.guests.items()):
            state = self._connector.domain_state(domid)
            if state is DomainState.GONE:
                self.release(domid)
            elif state is DomainState.SHUTDOWN and not guest.shutdown_told:
                guest.shutdown_told = True
                self.watches.tell_special(RELEASE_DOMAIN, domid)

    def _guest(self, domid: int) -> Guest:
        guest = self.guests.get(domid)
        if guest is None:
            raise StoreError(errno.ENOENT, f"domain {domid} is not introduced")
        return guest

    def close(self) -> None:
        """End all connections. The tree stays readable for those who hold it."""
        for client in list(self.clients):
            if isinstance(client, Connection):
                client.close()
            self.forget(client)
        self.guests.clear()
