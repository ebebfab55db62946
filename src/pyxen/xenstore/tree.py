"""The tree of nodes, with snapshots that cost nothing until one side writes.

A snapshot shares all nodes with its origin. Each node says which tree may change it in place; the other trees copy it, and the
nodes above it, first. Generation counts are unique over all trees of a store: a node that has the same generation in two trees has
the same value, permissions and list of children in both.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from pyxen.xenstore.paths import ROOT, Parts
from pyxen.xenstore.permissions import PRIVATE_TO_DOMAIN_0, Permissions

#: Bytes of a node's record apart from its permissions, value and names of children: what xenstored's database has in front of them.
RECORD_HEADER = 24
PERMISSION_SIZE = 8

NO_GENERATION = -1


class Node:
    """One node. Read its fields freely; only its tree changes them."""

    __slots__ = ("children", "generation", "names_size", "permissions", "tree_token", "value")

    def __init__(self, value: bytes, permissions: Permissions, generation: int, tree_token: object) -> None:
        self.value = value
        self.permissions = permissions
        self.generation = generation
        self.children: dict[str, Node] = {}
        self.names_size = 0  #: bytes of the children's names, each with its nul
        self.tree_token = tree_token

    def copy(self, tree_token: object) -> Node:
        """A node that ``tree_token``'s tree may change, equal to this one."""
        node = Node(self.value, self.permissions, self.generation, tree_token)
        node.children = self.children.copy()
        node.names_size = self.names_size
        return node

    def size(self) -> int:
        """Bytes that the node counts against its owner's quotas."""
        return RECORD_HEADER + PERMISSION_SIZE * len(self.permissions) + len(self.value) + self.names_size


class Usage:
    """What a domain owns in a tree."""

    __slots__ = ("memory", "nodes")

    def __init__(self, nodes: int = 0, memory: int = 0) -> None:
        self.nodes = nodes
        self.memory = memory

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Usage) and (self.nodes, self.memory) == (other.nodes, other.memory)

    def __repr__(self) -> str:
        return f"Usage(nodes={self.nodes}, memory={self.memory})"


class Tree:
    """A tree of nodes, never without a root. Paths given must exist where a method says so: callers check first."""

    def __init__(self) -> None:
        self._generations = count(1)
        self._token = object()
        self.version = next(self._generations)  #: generation of the last change
        self.root = Node(b"", PRIVATE_TO_DOMAIN_0, self.version, self._token)
        self.usage: dict[int, Usage] = {0: Usage(1, self.root.size())}

    def snapshot(self) -> Tree:
        """A tree with the same contents, whose changes this one does not see, nor the other way round."""
        other = object.__new__(Tree)
        other._generations = self._generations
        other._token = object()
        other.version = self.version
        other.root = self.root
        other.usage = {domid: Usage(usage.nodes, usage.memory) for domid, usage in self.usage.items()}
        self._token = object()
        return other

    def adopt(self, other: Tree) -> None:
        """Take over the contents of a snapshot of this tree, which must not be used afterwards."""
        self.root = other.root
        self.usage = other.usage
        self._token = other._token
        self.version = next(self._generations)

    # -- reading -----------------------------------------------------------------------------------------------------
    def get(self, parts: Parts) -> Node | None:
        """The node at a path."""
        node: Node | None = self.root
        for name in parts:
            node = node.children.get(name)  # type: ignore[union-attr]  # left at once when None
            if node is None:
                return None
        return node

    def nearest(self, parts: Parts) -> tuple[Parts, Node]:
        """The path itself if it exists, else the closest existing path above it."""
        node = self.root
        for depth, name in enumerate(parts):
            child = node.children.get(name)
            if child is None:
                return parts[:depth], node
            node = child
        return parts, node

    def generation(self, parts: Parts) -> int:
        """Generation of the node at a path, NO_GENERATION when there is none."""
        node = self.get(parts)
        return NO_GENERATION if node is None else node.generation

    def walk(self, top: Parts = ROOT) -> Iterator[tuple[Parts, Node]]:
        """All nodes from an existing path down, parents before children."""
        node = self.get(top)
        pending = [] if node is None else [(top, node)]
        while pending:
            parts, node = pending.pop()
            yield parts, node
            pending.extend(((*parts, name), child) for name, child in reversed(node.children.items()))

    def usage_of(self, domid: int) -> Usage:
        """What a domain owns now."""
        return self.usage.get(domid) or Usage()

    # -- changing ----------------------------------------------------------------------------------------------------
    def set_value(self, parts: Parts, value: bytes) -> None:
        """Change the value of an existing node."""
        node = self._changeable(parts)
        self._account(node.permissions, 0, len(value) - len(node.value))
        node.value = value
        self._touch(node)

    def set_permissions(self, parts: Parts, permissions: Permissions) -> None:
        """Change the permissions, and so perhaps the owner, of an existing node."""
        node = self._changeable(parts)
        self._account(node.permissions, -1, -node.size())
        node.permissions = permissions
        self._account(permissions, 1, node.size())
        self._touch(node)

    def add(self, parts: Parts, value: bytes, permissions: Permissions) -> Node:
        """Make a node that does not exist below a parent that does."""
        above = self._changeable(parts[:-1])
        node = Node(value, permissions, 0, self._token)
        above.children[parts[-1]] = node
        self._account(permissions, 1, node.size())
        self._resize_names(above, len(parts[-1]) + 1)
        self._touch(above)
        self._touch(node)
        return node

    def remove(self, parts: Parts) -> None:
        """Remove an existing node other than the root, and all below it."""
        for _, node in self.walk(parts):
            self._account(node.permissions, -1, -node.size())
        above = self._changeable(parts[:-1])
        del above.children[parts[-1]]
        self._resize_names(above, -len(parts[-1]) - 1)
        self._touch(above)

    def _changeable(self, parts: Parts) -> Node:
        """The node at an existing path, after making it and all above it this tree's own."""
        token = self._token
        node = self.root
        if node.tree_token is not token:
            node = self.root = node.copy(token)
        for name in parts:
            child = node.children[name]
            if child.tree_token is not token:
                child = node.children[name] = child.copy(token)
            node = child
        return node

    def _touch(self, node: Node) -> None:
        node.generation = self.version = next(self._generations)

    def _resize_names(self, node: Node, change: int) -> None:
        node.names_size += change
        self._account(node.permissions, 0, change)

    def _account(self, permissions: Permissions, nodes: int, memory: int) -> None:
        domid = permissions[0].domid
        usage = self.usage.get(domid)
        if usage is None:
            usage = self.usage[domid] = Usage()
        usage.nodes += nodes
        usage.memory += memory
        if not usage.nodes:
            del self.usage[domid]

    # -- self-check --------------------------------------------------------------------------------------------------
    def inconsistencies(self) -> list[str]:
        """Walk everything and compare it with the running counts: one line per difference, none when all is well."""
        found = []
        counted: dict[int, Usage] = {}
        for parts, node in self.walk():
            usage = counted.setdefault(node.permissions[0].domid, Usage())
            usage.nodes += 1
            usage.memory += node.size()
            if node.names_size != sum(len(name) + 1 for name in node.children):
                found.append(f"/{'/'.join(parts)}: size of the children's names is wrong")
        for domid in sorted(counted.keys() | self.usage.keys()):
            if counted.get(domid) != self.usage.get(domid):
                found.append(f"domain {domid}: counted {counted.get(domid)}, expected {self.usage.get(domid)}")
        return found
