"""The requests of the wire protocol: one table of all message types, and what each does with its payload (xenstore.txt)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyxen.abi.io import xs_wire
from pyxen.hypervisor.dom0_interface import DOMID_SELF
from pyxen.xenstore import control, paths, permissions
from pyxen.xenstore.client import Connection
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.quotas import passes
from pyxen.xenstore.transactions import Transaction
from pyxen.xenstore.wire import OK

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Daemon

Handler = Callable[["Daemon", Connection, Transaction | None, bytes], bytes]


@dataclass(frozen=True)
class Command:
    """A message type: what it is called, what does it, and for whom."""

    name: str
    handler: Handler
    privileged: bool = False  #: Domain 0 only, others get EACCES
    uses_transaction: bool = True  #: the header's tx_id counts


# -- payloads ----------------------------------------------------------------------------------------------------------
def strings(untrusted_payload: bytes) -> list[str]:
    """The nul-terminated strings of a payload. What follows the last nul is ignored, as in xenstored."""
    return [piece.decode("latin-1") for piece in untrusted_payload.split(b"\0")[:-1]]


def one_string(untrusted_payload: bytes) -> str:
    """A payload that is exactly one nul-terminated string, else EINVAL."""
    if untrusted_payload.find(b"\0") != len(untrusted_payload) - 1 or not untrusted_payload:
        raise StoreError(errno.EINVAL, "the payload is not one nul-terminated string")
    return untrusted_payload[:-1].decode("latin-1")


def number(untrusted_text: str, limit: int) -> int:
    """A decimal number from 0 to ``limit``, else EINVAL."""
    if not (untrusted_text.isascii() and untrusted_text.isdigit()) or len(untrusted_text) > 20 or int(untrusted_text) > limit:
        raise StoreError(errno.EINVAL, f"{untrusted_text[:24]!r} is not a number up to {limit}")
    return int(untrusted_text)


def domid(untrusted_text: str) -> int:
    """The id of a real domain, else EINVAL."""
    return number(untrusted_text, permissions.DOMID_FIRST_RESERVED - 1)


def guest_domid(untrusted_text: str) -> int:
    """The id of a real domain other than Domain 0, else EINVAL."""
    value = domid(untrusted_text)
    if not value:
        raise StoreError(errno.EINVAL, "not for Domain 0")
    return value


def _path(client: Connection, untrusted_path: str) -> str:
    return paths.absolute(untrusted_path, client.base)


def _one_path(client: Connection, untrusted_payload: bytes) -> str:
    return _path(client, one_string(untrusted_payload))


# -- nodes -------------------------------------------------------------------------------------------------------------
def _directory(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    _, names = daemon.operations.directory(client, transaction, _one_path(client, untrusted_payload))
    return "".join(f"{name}\0" for name in names).encode("ascii")


def _directory_part(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    arguments = strings(untrusted_payload)
    if len(arguments) != 2:
        raise StoreError(errno.EINVAL, "a path and an offset are needed")
    generation, names = daemon.operations.directory(client, transaction, _path(client, arguments[0]))
    offset = number(arguments[1], 0xFFFFFFFF)
    listing = "".join(f"{name}\0" for name in names).encode("ascii")
    head = b"%d\0" % generation
    if offset >= len(listing):
        return head + b"\0"
    room = xs_wire.XENSTORE_PAYLOAD_MAX - len(head) - 1
    if len(listing) - offset <= room:
        return head + listing[offset:] + b"\0"  # an empty name says that this is the end
    return head + listing[offset : listing.rfind(b"\0", offset, offset + room) + 1]


def _read(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    return daemon.operations.read(client, transaction, _one_path(client, untrusted_payload))


def _write(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    untrusted_path, nul, value = untrusted_payload.partition(b"\0")
    if not nul:
        raise StoreError(errno.EINVAL, "no nul after the path")
    daemon.operations.write(client, transaction, _path(client, untrusted_path.decode("latin-1")), value)
    return OK


def _mkdir(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    daemon.operations.mkdir(client, transaction, _one_path(client, untrusted_payload))
    return OK


def _rm(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    daemon.operations.remove(client, transaction, _one_path(client, untrusted_payload))
    return OK


def _path_or_special(client: Connection, untrusted_path: str) -> str:
    return paths.check_special(untrusted_path) if paths.is_special(untrusted_path) else _path(client, untrusted_path)


def _get_perms(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    path = _path_or_special(client, one_string(untrusted_payload))
    return "".join(f"{entry}\0" for entry in daemon.operations.get_permissions(client, transaction, path)).encode("ascii")


def _set_perms(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    arguments = strings(untrusted_payload)
    if len(arguments) < 2:
        raise StoreError(errno.EINVAL, "a path and permissions are needed")
    new = permissions.parse(arguments[1:])
    daemon.check_domains_exist(entry.domid for entry in new[:1])
    daemon.operations.set_permissions(client, transaction, _path_or_special(client, arguments[0]), new)
    return OK


# -- watches and transactions --------------------------------------------------------------------------------------------
def _watch(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    arguments = strings(untrusted_payload)
    if len(arguments) < 2:
        raise StoreError(errno.EINVAL, "a path and a token are needed")
    depth = number(arguments[2], 0xFFFFFFFF) if len(arguments) > 2 and arguments[2] else None
    daemon.add_watch(client, arguments[0], arguments[1].encode("latin-1"), depth)
    return OK


def _unwatch(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    arguments = strings(untrusted_payload)
    if len(arguments) < 2:
        raise StoreError(errno.EINVAL, "a path and a token are needed")
    daemon.watches.remove(client, _path_or_special(client, arguments[0]), arguments[1].encode("latin-1"))
    return OK


def _reset_watches(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    daemon.watches.remove_all(client)
    client.transactions.clear()
    return OK


def _transaction_start(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    if transaction is not None:
        raise StoreError(errno.EBUSY, "transactions do not nest")
    if not client.privileged and not passes(len(client.transactions) + 1, daemon.quotas.transactions):
        raise StoreError(errno.ENOSPC, "too many transactions are open")
    return b"%d\0" % client.start_transaction(daemon.operations.tree).number


def _transaction_end(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    answer = one_string(untrusted_payload)
    if answer not in ("T", "F"):
        raise StoreError(errno.EINVAL, "neither T nor F")
    if transaction is None:
        raise StoreError(errno.ENOENT, "no transaction to end")
    del client.transactions[transaction.number]
    if answer == "T":
        daemon.operations.end(transaction)
    return OK


# -- domains -------------------------------------------------------------------------------------------------------------
def _introduce(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    arguments = strings(untrusted_payload)
    if len(arguments) < 3:
        raise StoreError(errno.EINVAL, "a domain, a frame and a port are needed")
    port = number(arguments[2], 0x7FFFFFFF)
    if not port:
        raise StoreError(errno.EINVAL, "port 0 is no port")
    daemon.introduce(guest_domid(arguments[0]), number(arguments[1], (1 << 52) - 1), port)
    return OK


def _release(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    daemon.release(guest_domid(one_string(untrusted_payload)))
    return OK


def _resume(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    daemon.resume(guest_domid(one_string(untrusted_payload)))
    return OK


def _set_target(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    arguments = strings(untrusted_payload)
    if len(arguments) < 2:
        raise StoreError(errno.EINVAL, "two domains are needed")
    daemon.set_target(domid(arguments[0]), domid(arguments[1]))
    return OK


def _get_domain_path(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    # any 16-bit number has an answer, useless unless it is a domain's
    return paths.domain_path(number(one_string(untrusted_payload), 0xFFFF)).encode("ascii") + b"\0"


def _is_domain_introduced(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    asked = number(one_string(untrusted_payload), 0xFFFF)
    return b"T\0" if asked == DOMID_SELF or daemon.is_introduced(asked) else b"F\0"


def _control(daemon: Daemon, client: Connection, transaction: Transaction | None, untrusted_payload: bytes) -> bytes:
    return control.execute(daemon, strings(untrusted_payload)).encode("utf-8", "replace") + b"\0"


#: All request types of the protocol as of 4.17. XS_WATCH_EVENT and XS_ERROR go the other way only.
COMMANDS: dict[int, Command] = {
    xs_wire.XS_CONTROL: Command("CONTROL", _control, privileged=True, uses_transaction=False),
    xs_wire.XS_DIRECTORY: Command("DIRECTORY", _directory),
    xs_wire.XS_READ: Command("READ", _read),
    xs_wire.XS_GET_PERMS: Command("GET_PERMS", _get_perms),
    xs_wire.XS_WATCH: Command("WATCH", _watch, uses_transaction=False),
    xs_wire.XS_UNWATCH: Command("UNWATCH", _unwatch, uses_transaction=False),
    xs_wire.XS_TRANSACTION_START: Command("TRANSACTION_START", _transaction_start),
    xs_wire.XS_TRANSACTION_END: Command("TRANSACTION_END", _transaction_end),
    xs_wire.XS_INTRODUCE: Command("INTRODUCE", _introduce, privileged=True, uses_transaction=False),
    xs_wire.XS_RELEASE: Command("RELEASE", _release, privileged=True, uses_transaction=False),
    xs_wire.XS_GET_DOMAIN_PATH: Command("GET_DOMAIN_PATH", _get_domain_path, uses_transaction=False),
    xs_wire.XS_WRITE: Command("WRITE", _write),
    xs_wire.XS_MKDIR: Command("MKDIR", _mkdir),
    xs_wire.XS_RM: Command("RM", _rm),
    xs_wire.XS_SET_PERMS: Command("SET_PERMS", _set_perms),
    xs_wire.XS_IS_DOMAIN_INTRODUCED: Command("IS_DOMAIN_INTRODUCED", _is_domain_introduced, privileged=True, uses_transaction=False),
    xs_wire.XS_RESUME: Command("RESUME", _resume, privileged=True, uses_transaction=False),
    xs_wire.XS_SET_TARGET: Command("SET_TARGET", _set_target, privileged=True, uses_transaction=False),
    xs_wire.XS_RESET_WATCHES: Command("RESET_WATCHES", _reset_watches, uses_transaction=False),
    xs_wire.XS_DIRECTORY_PART: Command("DIRECTORY_PART", _directory_part),
}
