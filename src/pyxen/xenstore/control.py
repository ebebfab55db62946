"""XS_CONTROL: questions and orders of the administrator (``xenstore-control``), Domain 0 only."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pyxen.xenstore.client import Connection
from pyxen.xenstore.errors import StoreError

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Daemon

log = logging.getLogger("pyxen.xenstore")

#: An answer longer than a message is cut.
MAX_ANSWER = 4000


@dataclass(frozen=True)
class ControlCommand:
    """A control command: its parameters as ``help`` shows them, and how many it takes."""

    parameters: str
    counts: range
    handler: Callable[[Daemon, Sequence[str]], str]


def execute(daemon: Daemon, arguments: Sequence[str]) -> str:
    """Carry out a command. EINVAL for one that does not exist, or wrong parameters."""
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None or len(arguments) - 1 not in command.counts:
        raise StoreError(errno.EINVAL, "no such control command, or not its parameters")
    return command.handler(daemon, arguments[1:])[:MAX_ANSWER]


def _help(daemon: Daemon, arguments: Sequence[str]) -> str:
    return "".join(f"{name}\t{command.parameters}\n" for name, command in COMMANDS.items())


def _print(daemon: Daemon, arguments: Sequence[str]) -> str:
    log.info("control: %s", arguments[0])
    return "OK"


def _log(daemon: Daemon, arguments: Sequence[str]) -> str:
    if arguments[0] not in ("on", "off"):
        raise StoreError(errno.EINVAL, "neither on nor off")
    daemon.tracing = arguments[0] == "on"
    return "OK"


def _check(daemon: Daemon, arguments: Sequence[str]) -> str:
    found = daemon.operations.tree.inconsistencies()
    for line in found:
        log.error("check: %s", line)
    return "\n".join(found) or "OK"


def _quota(daemon: Daemon, arguments: Sequence[str]) -> str:
    quotas = daemon.quotas
    if not arguments:
        return "".join(f"{name:<20}: {quotas.get(name):8}\n" for name in quotas.names())
    if len(arguments) == 1:
        return _domain_usage(daemon, _decimal(arguments[0]))
    if len(arguments) == 3 and arguments[0] == "set":
        quotas.set(arguments[1], _decimal(arguments[2]))
        return "OK"
    raise StoreError(errno.EINVAL, "bad parameters of quota")


def _domain_usage(daemon: Daemon, domid: int) -> str:
    if not daemon.is_introduced(domid):
        raise StoreError(errno.ENOENT, f"domain {domid} is not introduced")
    own = [client for client in daemon.clients if client.domid == domid]
    connections = [client for client in own if isinstance(client, Connection)]
    usage = daemon.operations.tree.usage_of(domid)
    figures = {
        "nodes": usage.nodes,
        "watches": sum(daemon.watches.count(client) for client in own),
        "transactions": sum(len(client.transactions) for client in own),
        "outstanding": sum(connection.outstanding for connection in connections),
        "memory": usage.memory
        + sum(daemon.watches.memory(client) for client in own)
        + sum(connection.memory for connection in connections),
    }
    return f"Domain {domid}:\n" + "".join(f"{name:<16}: {value:8}\n" for name, value in figures.items())


def _decimal(untrusted_text: str) -> int:
    if not (untrusted_text.isascii() and untrusted_text.isdigit()) or len(untrusted_text) > 10:
        raise StoreError(errno.EINVAL, f"{untrusted_text[:20]!r} is not a number")
    return int(untrusted_text)


def _memreport(daemon: Daemon, arguments: Sequence[str]) -> str:
    tree = daemon.operations.tree
    lines = [
        f"requests served : {daemon.requests}",
        f"clients         : {len(daemon.clients)}",
        f"watches         : {sum(1 for _ in daemon.watches)}",
        f"open transactions: {sum(len(client.transactions) for client in daemon.clients)}",
        f"nodes           : {sum(usage.nodes for usage in tree.usage.values())}",
    ]
    for domid, usage in sorted(tree.usage.items()):
        lines.append(f"domain {domid:<5}    : {usage.nodes} nodes, {usage.memory} bytes")
    for client in daemon.clients:
        if isinstance(client, Connection):
            lines.append(f"{client.name}: {client.memory} bytes queued, {client.requests} requests served")
    return "".join(f"{line}\n" for line in lines)


COMMANDS: dict[str, ControlCommand] = {
    "check": ControlCommand("", range(1), _check),
    "log": ControlCommand("on|off", range(1, 2), _log),
    "memreport": ControlCommand("", range(1), _memreport),
    "print": ControlCommand("<string>", range(1, 2), _print),
    "quota": ControlCommand("[set <name> <val>|<domid>]", range(4), _quota),
    "help": ControlCommand("", range(1), _help),
}
