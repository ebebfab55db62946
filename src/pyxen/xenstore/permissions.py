"""Permissions of nodes: who may read and write, in the form and with the rules of xenstored.

The first entry names the owner, who may do everything, and says what domains without an entry may do.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pyxen.xenstore.errors import StoreError

NONE = 0
READ = 1
WRITE = 2
OWNER = 4
EVERYTHING = READ | WRITE | OWNER

DOMID_FIRST_RESERVED = 0x7FF0

_LETTERS = {NONE: "n", READ: "r", WRITE: "w", READ | WRITE: "b"}
_BITS = {letter: bits for bits, letter in _LETTERS.items()}
_ENTRY = re.compile(r"([nrwb])([0-9]{1,5})")


class Permission(NamedTuple):
    """One entry: a domain and the bits READ and WRITE."""

    domid: int
    access: int

    def __str__(self) -> str:
        return f"{_LETTERS[self.access]}{self.domid}"


Permissions = tuple[Permission, ...]

PRIVATE_TO_DOMAIN_0: Permissions = (Permission(0, NONE),)


def parse(untrusted_entries: Iterable[str]) -> Permissions:
    """Entries such as ``n0`` and ``r5``. EINVAL for none at all or one that is malformed or names no real domain."""
    permissions = []
    for untrusted_entry in untrusted_entries:
        match = _ENTRY.fullmatch(untrusted_entry)
        if match is None or int(match[2]) >= DOMID_FIRST_RESERVED:
            raise StoreError(errno.EINVAL, f"bad permission {untrusted_entry[:20]!r}")
        permissions.append(Permission(int(match[2]), _BITS[match[1]]))
    if not permissions:
        raise StoreError(errno.EINVAL, "no permissions given")
    return tuple(permissions)


def access(permissions: Permissions, domid: int, target: int | None = None) -> int:
    """What an unprivileged domain may do; ``target`` is the domain that it acts for (XS_SET_TARGET)."""
    owner = permissions[0]
    if owner.domid == domid or owner.domid == target:
        return EVERYTHING
    for entry in permissions[1:]:
        if entry.domid == domid or entry.domid == target:
            return entry.access
    return owner.access


def inherited(parent: Permissions, new_owner: int | None) -> Permissions:
    """Permissions of a new child: its parent's, owned by ``new_owner`` if one is given."""
    if new_owner is None or parent[0].domid == new_owner:
        return parent
    return (Permission(new_owner, parent[0].access), *parent[1:])


def without_domain(permissions: Permissions, domid: int) -> Permissions:
    """The entries that are left when a domain is gone. The owner's entry always stays."""
    if all(entry.domid != domid for entry in permissions[1:]):
        return permissions
    return (permissions[0], *(entry for entry in permissions[1:] if entry.domid != domid))


def names_any(permissions: Sequence[Permission], domid: int) -> bool:
    """Whether any entry is about this domain."""
    return any(entry.domid == domid for entry in permissions)
