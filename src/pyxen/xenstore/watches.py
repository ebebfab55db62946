"""Watches: who wants to hear of which paths, and telling them (xenstore.txt, "Watches").

A change of a path is told to the watches on it and on all paths above it. The removal of a path is told in the same way, and to
the watches on each node that went away with it. A connection hears of a change only if it may read the node (as it is or as it
was) or the node's parent.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Protocol

from pyxen.xenstore import permissions
from pyxen.xenstore.errors import StoreError
from pyxen.xenstore.paths import is_special, join, parent
from pyxen.xenstore.permissions import PRIVATE_TO_DOMAIN_0, READ, Permissions
from pyxen.xenstore.transactions import Change
from pyxen.xenstore.tree import Tree

INTRODUCE_DOMAIN = "@introduceDomain"
RELEASE_DOMAIN = "@releaseDomain"


class Watcher(Protocol):
    """Somebody who has watches."""

    domid: int
    privileged: bool
    target: int | None

    def watch_event(self, path: str, token: bytes) -> None:
        """Take an event. Must not call back into the store: it is in the middle of something."""


class Watch:
    """One watch. ``path`` is absolute or special."""

    __slots__ = ("base", "depth", "path", "token", "watcher")

    def __init__(self, watcher: Watcher, path: str, token: bytes, base: str | None, depth: int | None) -> None:
        self.watcher = watcher
        self.path = path
        self.token = token
        self.base = base  #: events are reported relative to this; None: in full
        self.depth = depth  #: levels below ``path`` that count; None: all

    def size(self) -> int:
        """Bytes counted against the watcher's memory quota."""
        return len(self.path) + len(self.token)

    def matches(self, distance: int, below: int) -> bool:
        """Whether an event so many levels below the watched path counts. ``below``: see Change."""
        if self.depth is None:
            return not below
        return distance <= self.depth and (not below or self.depth < distance + below)

    def fire(self, path: str) -> None:
        """Tell of an event at an absolute or special path that this watch matches."""
        if self.base is not None:
            path = path[len(self.base) + 1 :]
        self.watcher.watch_event(path, self.token)


class WatchRegistry:
    """All watches, by path."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}
        self._by_watcher: dict[Watcher, dict[tuple[str, bytes], Watch]] = {}
        self._memory: dict[Watcher, int] = {}
        self.special_permissions: dict[str, Permissions] = {
            INTRODUCE_DOMAIN: PRIVATE_TO_DOMAIN_0,
            RELEASE_DOMAIN: PRIVATE_TO_DOMAIN_0,
        }

    def __iter__(self) -> Iterator[Watch]:
        for watches in self._by_path.values():
            yield from watches

    def count(self, watcher: Watcher) -> int:
        """How many watches somebody has."""
        return len(self._by_watcher.get(watcher, ()))

    def memory(self, watcher: Watcher) -> int:
        """Bytes that somebody's watches count against the memory quota."""
        return self._memory.get(watcher, 0)

    def add(self, watch: Watch) -> None:
        """EEXIST if the watcher has the same path and token already."""
        own = self._by_watcher.setdefault(watch.watcher, {})
        key = (watch.path, watch.token)
        if key in own:
            raise StoreError(errno.EEXIST, f"{watch.path} is watched with this token already")
        own[key] = watch
        self._memory[watch.watcher] = self.memory(watch.watcher) + watch.size()
        self._by_path.setdefault(watch.path, []).append(watch)

    def remove(self, watcher: Watcher, path: str, token: bytes) -> None:
        """ENOENT if there is no such watch."""
        own = self._by_watcher.get(watcher, {})
        watch = own.pop((path, token), None)
        if watch is None:
            raise StoreError(errno.ENOENT, f"{path} is not watched with this token")
        self._memory[watcher] -= watch.size()
        if not own:
            del self._by_watcher[watcher]
            del self._memory[watcher]
        self._unlist(watch)

    def remove_all(self, watcher: Watcher) -> None:
        """Forget everything that somebody watches."""
        self._memory.pop(watcher, None)
        for watch in self._by_watcher.pop(watcher, {}).values():
            self._unlist(watch)

    def _unlist(self, watch: Watch) -> None:
        watches = self._by_path[watch.path]
        watches.remove(watch)
        if not watches:
            del self._by_path[watch.path]

    # -- events ------------------------------------------------------------------------------------------------------
    def tell(self, change: Change, tree: Tree) -> None:
        """Tell of a change of a node. ``tree`` is the tree after it (or, at a removal, before or after)."""
        if not self._by_path:
            return
        path = join(change.parts)
        matching = list(self._by_path.get(path, ())) if change.exact else self._matching(path, change)
        if not matching:
            return
        for watch in matching:
            if self._may_hear(watch.watcher, change, tree):
                watch.fire(path)

    def tell_special(self, name: str, domid: int) -> None:
        """Tell of ``@introduceDomain`` or ``@releaseDomain``: about which domain it is, is said only to watches that ask for it,
        by depth 1 or with the domain in their path."""
        allowed = self.special_permissions[name]
        numbered = f"{name}/{domid}"
        for path in (name, numbered):
            for watch in list(self._by_path.get(path, ())):
                watcher = watch.watcher
                if watcher.privileged or permissions.access(allowed, watcher.domid, watcher.target) & READ:
                    watch.fire(numbered if path is numbered or watch.depth == 1 else name)

    def forget_domain(self, domid: int) -> None:
        """A domain is gone: it has no longer a permission for special events."""
        for name, entries in self.special_permissions.items():
            kept = permissions.without_domain(entries, domid)
            self.special_permissions[name] = PRIVATE_TO_DOMAIN_0 if kept[0].domid == domid else kept

    def _matching(self, path: str, change: Change) -> list[Watch]:
        levels = len(change.parts)
        found = [watch for watch in self._by_path.get("/", ()) if watch.matches(levels, change.below)]
        end = 0
        for level, name in enumerate(change.parts, 1):
            end += 1 + len(name)
            found.extend(watch for watch in self._by_path.get(path[:end], ()) if watch.matches(levels - level, change.below))
        return found

    @staticmethod
    def _may_hear(watcher: Watcher, change: Change, tree: Tree) -> bool:
        if watcher.privileged:
            return True
        if change.former is not None and permissions.access(change.former, watcher.domid, watcher.target) & READ:
            return True
        for parts in (change.parts, parent(change.parts)):
            node = tree.get(parts)
            if node is not None and permissions.access(node.permissions, watcher.domid, watcher.target) & READ:
                return True
        return False


def check_special_depth(path: str, depth: int | None) -> None:
    """Special events take no depth but 1. EINVAL otherwise."""
    if is_special(path) and depth not in (None, 1):
        raise StoreError(errno.EINVAL, f"watches on {path} take no depth but 1")
