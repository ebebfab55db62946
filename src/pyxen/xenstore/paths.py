"""Paths of the store: what is allowed in one, absolute and relative forms (xenstore.txt, xs_wire.h).

Inside the store a path is a tuple of names; ``()`` is the root.
"""

from __future__ import annotations

import errno
import re
from functools import lru_cache

from pyxen.abi.io import xs_wire
from pyxen.xenstore.errors import StoreError

Parts = tuple[str, ...]

ROOT: Parts = ()
DOMAIN_ROOT = "/local/domain"

_ABSOLUTE = re.compile(r"/(?:[-A-Za-z0-9_@]+(?:/[-A-Za-z0-9_@]+)*)?")
_SPECIAL = re.compile(r"@[-A-Za-z0-9_@/]*")
_DOMAIN_PREFIX = re.compile(r"/local/domain/[0-9]{1,5}/")


def domain_path(domid: int) -> str:
    """The base of a domain's relative paths."""
    return f"{DOMAIN_ROOT}/{domid}"


def join(parts: Parts) -> str:
    """The text form of a path."""
    return "/" + "/".join(parts)


def parent(parts: Parts) -> Parts:
    """The path above. The root is its own parent."""
    return parts[:-1]


def is_special(path: str) -> bool:
    """Whether this names an event that the store invents (``@introduceDomain``) rather than a node."""
    return path.startswith("@")


@lru_cache(maxsize=2048)
def split(untrusted_path: str) -> Parts:
    """An absolute path as names. EINVAL for a character, a doubled or trailing slash, or a length that is not allowed."""
    if len(untrusted_path) > xs_wire.XENSTORE_ABS_PATH_MAX or not _ABSOLUTE.fullmatch(untrusted_path):
        raise StoreError(errno.EINVAL, f"bad path {untrusted_path[:80]!r}")
    return tuple(untrusted_path[1:].split("/")) if len(untrusted_path) > 1 else ROOT


def absolute(untrusted_path: str, base: str) -> str:
    """Resolve a path that may be relative to ``base``. Only its length is checked here; ``split`` checks the rest."""
    if untrusted_path.startswith("/"):
        return untrusted_path
    if not untrusted_path or len(untrusted_path) > xs_wire.XENSTORE_REL_PATH_MAX:
        raise StoreError(errno.EINVAL, "empty or too long relative path")
    return f"{base}/{untrusted_path}"


def check_special(untrusted_path: str) -> str:
    """A well-formed ``@...`` path, or EINVAL."""
    if len(untrusted_path) > xs_wire.XENSTORE_REL_PATH_MAX or not _SPECIAL.fullmatch(untrusted_path):
        raise StoreError(errno.EINVAL, f"bad special path {untrusted_path[:80]!r}")
    return untrusted_path


def length_under_domain(path: str) -> int:
    """Length of a path not counting ``/local/domain/<domid>/``: what the path-max quota of a domain limits."""
    prefix = _DOMAIN_PREFIX.match(path)
    return len(path) - (prefix.end() if prefix else 0)
