"""Transactions: a snapshot of the tree to work on, and the check at the end that nothing it relied on has changed.

A transaction remembers the generation of every node that it reads or changes, as of its first access. It can be committed if all of
these nodes have the same generation in the live tree, otherwise it ends with EAGAIN and the caller starts again.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.paths import Parts
from pyxen.xenstore.permissions import Permissions, names_any
from pyxen.xenstore.quotas import Quotas, passes
from pyxen.xenstore.tree import NO_GENERATION, Tree


class Change(NamedTuple):
    """An event to tell to watches."""

    parts: Parts
    exact: bool  #: only watches on this very path match: it went away together with a path above it
    former: Permissions | None  #: the node's permissions before: who could read it is told
    below: int = 0  #: made on the way to a node so many levels below, whose event tells of both to who watches so deep


class Transaction:
    """An open transaction. ``tree`` is its own view of the store."""

    def __init__(self, number: int, live: Tree) -> None:
        self.number = number
        self.tree = live.snapshot()
        self._started_at = live.version
        self._usage_at_start = {domid: usage.nodes for domid, usage in live.usage.items()}
        self._accessed: dict[Parts, int] = {}
        self._modified: set[Parts] = set()
        self._changes: dict[Parts, Change] = {}
        self._stale = False

    @property
    def accessed_nodes(self) -> int:
        """How many nodes the transaction depends on."""
        return len(self._accessed)

    def access(self, parts: Parts) -> None:
        """Remember that the outcome depends on this path. To be called before anything is changed there."""
        if parts not in self._accessed:
            self._accessed[parts] = self.tree.generation(parts)

    def modify(self, parts: Parts) -> None:
        """Remember that this path is about to be created, changed or removed."""
        self.access(parts)
        self._modified.add(parts)

    def record(self, change: Change) -> None:
        """Keep an event until the commit. The first permissions and the wider match of several for one path count."""
        earlier = self._changes.get(change.parts)
        if earlier is not None:
            former = earlier.former or change.former
            change = Change(change.parts, earlier.exact and change.exact, former, min(earlier.below, change.below))
        self._changes[change.parts] = change

    def domain_died(self, domid: int) -> None:
        """A domain is gone: what this transaction would grant to it must not reach a later domain of that number."""
        for parts in self._modified:
            node = self.tree.get(parts)
            if node is not None and names_any(node.permissions, domid):
                self._stale = True
                return

    def commit(self, live: Tree, quotas: Quotas) -> list[Change]:
        """Carry the changes into the live tree. -> the events to tell. EAGAIN for a conflict, ENOSPC if a domain would own too many
        nodes; the live tree is unchanged then."""
        if self._stale:
            raise StoreError(errno.EAGAIN, "a domain that the transaction refers to has died")
        if live.version == self._started_at:
            if self._modified:
                live.adopt(self.tree)
            return list(self._changes.values())
        for parts, generation in self._accessed.items():
            if live.generation(parts) != generation:
                raise StoreError(errno.EAGAIN, "the store was changed meanwhile")
        self._check_quotas(live, quotas)
        self._merge(live)
        return list(self._changes.values())

    def _check_quotas(self, live: Tree, quotas: Quotas) -> None:
        for domid, usage in self.tree.usage.items():
            added = usage.nodes - self._usage_at_start.get(domid, 0)
            if domid and added > 0 and not passes(live.usage_of(domid).nodes + added, quotas.nodes):
                raise StoreError(errno.ENOSPC, f"domain {domid} would own too many nodes")

    def _merge(self, live: Tree) -> None:
        """Make every modified path in the live tree what it is in this transaction's. All nodes whose lists of children change are
        among them, so parents come to exist before their children."""
        ordered = sorted(self._modified, key=len)
        for parts in ordered:
            if self.tree.generation(parts) == NO_GENERATION and live.get(parts) is not None:
                live.remove(parts)
        for parts in ordered:
            node = self.tree.get(parts)
            if node is None:
                continue
            present = live.get(parts)
            if present is None:
                live.add(parts, node.value, node.permissions)
                continue
            if present.value != node.value or present.permissions == node.permissions:
                live.set_value(parts, node.value)
            if present.permissions != node.permissions:
                live.set_permissions(parts, node.permissions)
