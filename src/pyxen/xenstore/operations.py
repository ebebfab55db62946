"""What can be done to nodes, with permissions, quotas, transactions and watch events taken care of.

Both the wire protocol and Domain 0's in-process interface end up here.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Protocol

from pyxen.xenstore import paths, permissions
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.paths import Parts
from pyxen.xenstore.permissions import OWNER, READ, WRITE, Permissions
from pyxen.xenstore.quotas import Quotas, passes
from pyxen.xenstore.transactions import Change, Transaction
from pyxen.xenstore.tree import PERMISSION_SIZE, Node, Tree
from pyxen.xenstore.watches import WatchRegistry


class Actor(Protocol):
    """On whose behalf something is done."""

    domid: int
    privileged: bool
    target: int | None


class Domain0:
    """The embedded Domain 0 itself."""

    domid = 0
    privileged = True
    target: int | None = None


DOMAIN_0 = Domain0()


class Operations:
    """The live tree and everything that is done to it. Paths are absolute and ``untrusted_path`` is checked here."""

    def __init__(self, watches: WatchRegistry, quotas: Quotas) -> None:
        self.tree = Tree()
        self.watches = watches
        self.quotas = quotas

    # -- reading -----------------------------------------------------------------------------------------------------
    def read(self, actor: Actor, transaction: Transaction | None, untrusted_path: str) -> bytes:
        """XS_READ. EACCES, ENOENT, EINVAL."""
        return self._readable(actor, transaction, untrusted_path).value

    def directory(self, actor: Actor, transaction: Transaction | None, untrusted_path: str) -> tuple[int, list[str]]:
        """XS_DIRECTORY, XS_DIRECTORY_PART: the node's generation and the names of its children."""
        node = self._readable(actor, transaction, untrusted_path)
        return node.generation, list(node.children)

    def get_permissions(self, actor: Actor, transaction: Transaction | None, untrusted_path: str) -> Permissions:
        """XS_GET_PERMS, of special paths also."""
        if paths.is_special(untrusted_path):
            return self._special_permissions(actor, untrusted_path)
        return self._readable(actor, transaction, untrusted_path).permissions

    # -- changing ----------------------------------------------------------------------------------------------------
    def write(self, actor: Actor, transaction: Transaction | None, untrusted_path: str, value: bytes) -> None:
        """XS_WRITE: missing parents are made, with empty values. EACCES, ENOSPC (quota), EINVAL."""
        parts = self._parts(actor, untrusted_path)
        tree = self._tree(transaction)
        node = self._find(actor, transaction, parts, WRITE)
        if node is None:
            self._create(actor, transaction, parts, value)
            return
        self._check_size(actor, node, len(value) - len(node.value))
        self._modify(actor, transaction, parts)
        tree.set_value(parts, value)
        self._tell(transaction, Change(parts, False, None))

    def mkdir(self, actor: Actor, transaction: Transaction | None, untrusted_path: str) -> None:
        """XS_MKDIR: as write with an empty value, but an existing node stays as it is."""
        parts = self._parts(actor, untrusted_path)
        if self._find(actor, transaction, parts, WRITE) is None:
            self._create(actor, transaction, parts, b"")

    def remove(self, actor: Actor, transaction: Transaction | None, untrusted_path: str) -> None:
        """XS_RM: a missing node is no error, a missing parent is (ENOENT). The root stays: EINVAL."""
        parts = self._parts(actor, untrusted_path)
        if self._find(actor, transaction, parts, WRITE) is None:
            above = paths.parent(parts)
            self._access(actor, transaction, above)
            if self._tree(transaction).get(above) is None:
                raise StoreError(errno.ENOENT, f"{paths.join(above)} does not exist")
            return
        if not parts:
            raise StoreError(errno.EINVAL, "the root can't be removed")
        self._modify(actor, transaction, paths.parent(parts))
        changes = list(self._removal(parts, self._tree(transaction)))
        for change in changes:
            self._modify(actor, transaction, change.parts)
        self._tree(transaction).remove(parts)
        for change in changes:
            self._tell(transaction, change)

    def set_permissions(self, actor: Actor, transaction: Transaction | None, untrusted_path: str, new: Permissions) -> None:
        """XS_SET_PERMS, of special paths also. EACCES unless the actor owns the node, EPERM if it gives it away, ENOSPC."""
        if not actor.privileged and not passes(len(new), self.quotas.node_permissions):
            raise StoreError(errno.ENOSPC, "too many permissions for one node")
        if paths.is_special(untrusted_path):
            self._special_permissions(actor, untrusted_path)
            if not actor.privileged:
                raise StoreError(errno.EACCES, "only Domain 0 changes who hears of special events")
            self.watches.special_permissions[untrusted_path] = new
            return
        parts = self._parts(actor, untrusted_path)
        node = self._existing(actor, transaction, parts, WRITE | OWNER)
        if not actor.privileged and new[0].domid != node.permissions[0].domid:
            raise StoreError(errno.EPERM, "only Domain 0 gives nodes to another owner")
        self._check_size(actor, node, PERMISSION_SIZE * (len(new) - len(node.permissions)))
        self._modify(actor, transaction, parts)
        former = node.permissions
        self._tree(transaction).set_permissions(parts, new)
        self._tell(transaction, Change(parts, False, former))

    def end(self, transaction: Transaction) -> None:
        """Commit. EAGAIN, ENOSPC: then nothing happened."""
        for change in transaction.commit(self.tree, self.quotas):
            self.watches.tell(change, self.tree)

    def forget_domain(self, domid: int) -> None:
        """A domain has died: its nodes go, with all below them, and so do its permissions on other nodes."""
        self.watches.forget_domain(domid)
        for parts, node in list(self.tree.walk()):
            if self.tree.get(parts) is not node:
                continue  # went away with a node above it
            if node.permissions[0].domid == domid and parts:
                changes = list(self._removal(parts, self.tree))
                self.tree.remove(parts)
                for change in changes:
                    self.watches.tell(change, self.tree)
            else:
                kept = permissions.without_domain(node.permissions, domid)
                if kept is not node.permissions:
                    self.tree.set_permissions(parts, kept)

    # -- finding nodes -------------------------------------------------------------------------------------------------
    def _tree(self, transaction: Transaction | None) -> Tree:
        return self.tree if transaction is None else transaction.tree

    def _parts(self, actor: Actor, untrusted_path: str) -> Parts:
        parts = paths.split(untrusted_path)
        if not actor.privileged and not passes(paths.length_under_domain(untrusted_path), self.quotas.path_max):
            raise StoreError(errno.EINVAL, "path is too long")
        return parts

    def _find(self, actor: Actor, transaction: Transaction | None, parts: Parts, wanted: int) -> Node | None:
        """The node, if the actor may do what it wants with it. None if there is none and the actor may know. As in xenstored, an
        actor that has no such right on the closest existing path above learns nothing but EACCES."""
        self._access(actor, transaction, parts)
        tree = self._tree(transaction)
        if actor.privileged:
            return tree.get(parts)
        nearest, node = tree.nearest(parts)
        have = permissions.access(node.permissions, actor.domid, actor.target)
        if len(nearest) == len(parts):
            if have & wanted == wanted:
                return node
        else:
            self._access(actor, transaction, nearest)
            if have & wanted:
                return None
        raise StoreError(errno.EACCES, f"no permission for {paths.join(parts)}")

    def _existing(self, actor: Actor, transaction: Transaction | None, parts: Parts, wanted: int) -> Node:
        node = self._find(actor, transaction, parts, wanted)
        if node is None:
            raise StoreError(errno.ENOENT, f"{paths.join(parts)} does not exist")
        return node

    def _readable(self, actor: Actor, transaction: Transaction | None, untrusted_path: str) -> Node:
        return self._existing(actor, transaction, self._parts(actor, untrusted_path), READ)

    def _special_permissions(self, actor: Actor, untrusted_path: str) -> Permissions:
        known = self.watches.special_permissions.get(untrusted_path)
        if known is None:
            raise StoreError(errno.ENOENT, f"there are no permissions for {untrusted_path[:40]!r}")
        if not actor.privileged and not permissions.access(known, actor.domid, actor.target) & READ:
            raise StoreError(errno.EACCES, f"no permission for {untrusted_path}")
        return known

    # -- changing, with the book-keeping -----------------------------------------------------------------------------------
    def _access(self, actor: Actor, transaction: Transaction | None, parts: Parts) -> None:
        if transaction is not None:
            transaction.access(parts)
            self._check_accessed(actor, transaction)

    def _modify(self, actor: Actor, transaction: Transaction | None, parts: Parts) -> None:
        if transaction is not None:
            transaction.modify(parts)
            self._check_accessed(actor, transaction)

    def _check_accessed(self, actor: Actor, transaction: Transaction) -> None:
        if not actor.privileged and not passes(transaction.accessed_nodes, self.quotas.transaction_nodes):
            raise StoreError(errno.ENOSPC, "too many nodes accessed in one transaction")

    def _create(self, actor: Actor, transaction: Transaction | None, parts: Parts, value: bytes) -> None:
        """Make a node and the missing ones above it."""
        tree = self._tree(transaction)
        above, node = tree.nearest(parts)
        missing = len(parts) - len(above)
        self._check_room(actor, tree, node, parts, missing, value)
        owner = None if actor.privileged else actor.domid
        inherited = permissions.inherited(node.permissions, owner)
        self._modify(actor, transaction, above)
        for depth in range(len(above) + 1, len(parts) + 1):
            self._modify(actor, transaction, parts[:depth])
        for depth in range(len(above) + 1, len(parts) + 1):
            tree.add(parts[:depth], value if depth == len(parts) else b"", inherited)
        for depth in range(len(above) + 1, len(parts) + 1):
            self._tell(transaction, Change(parts[:depth], False, None, below=len(parts) - depth))

    def _check_room(self, actor: Actor, tree: Tree, above: Node, parts: Parts, missing: int, value: bytes) -> None:
        if actor.privileged:
            return
        quotas = self.quotas
        usage = tree.usage_of(actor.domid)
        if not passes(usage.nodes + missing, quotas.nodes):
            raise StoreError(errno.ENOSPC, f"domain {actor.domid} owns too many nodes")
        first = parts[len(parts) - missing]
        self._check_size(actor, above, len(first) + 1)
        new = Node(value, permissions.inherited(above.permissions, actor.domid), 0, None)
        self._check_size(actor, new, 0)
        names = sum(len(name) + 1 for name in parts[len(parts) - missing :])
        if not passes(usage.memory + names + missing * new.size(), quotas.memory):
            raise StoreError(errno.ENOMEM, f"domain {actor.domid} uses too much memory")

    def _check_size(self, actor: Actor, node: Node, growth: int) -> None:
        if actor.privileged or growth < 0:
            return
        if not passes(node.size() + growth, self.quotas.node_size):
            raise StoreError(errno.ENOSPC, "the node would be too large")

    def _removal(self, top: Parts, tree: Tree) -> Iterator[Change]:
        """The events of a removal: that of the top first, then those of the nodes below, which only their own watches get."""
        for parts, node in tree.walk(top):
            yield Change(parts, len(parts) > len(top), node.permissions)

    def _tell(self, transaction: Transaction | None, change: Change) -> None:
        if transaction is None:
            self.watches.tell(change, self.tree)
        else:
            transaction.record(change)
