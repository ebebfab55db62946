"""Limits on what one unprivileged domain may have, with xenstored's names and default values.

Domain 0 and clients of the Unix socket have no limits here (a socket client that does not read is dropped by the socket server).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, fields

from pyxen.abi.io import xs_wire
from pyxen.xenstore.errors import StoreError


@dataclass
class Quotas:
    """The limits in force; XS_CONTROL ``quota`` shows and sets them. 0 means no limit, for every one of them."""

    nodes: int = 1000  #: nodes owned by a domain
    watches: int = 128
    transactions: int = 10  #: open at the same time
    node_size: int = 2048  #: bytes of permissions, children's names and value of a node together
    node_permissions: int = 5  #: entries
    transaction_nodes: int = 1024  #: nodes accessed in one transaction
    outstanding: int = 20  #: replies that the domain has not taken yet; more requests wait
    path_max: int = xs_wire.XENSTORE_REL_PATH_MAX  #: bytes of a path, without /local/domain/<domid>/
    memory: int = 2560 * 1024  #: bytes of nodes, watches and queued messages
    request_rate: int = 5000  #: requests a second, in the long run; more are served later

    @classmethod
    def names(cls) -> dict[str, str]:
        """The names that xenstored uses, to those of the fields."""
        return {field.name.replace("_", "-"): field.name for field in fields(cls)}

    def get(self, name: str) -> int:
        """A limit by xenstored's name. EINVAL for an unknown one."""
        return int(getattr(self, self._field(name)))

    def set(self, name: str, value: int) -> None:
        """Change a limit. EINVAL for an unknown name or a negative value."""
        if value < 0:
            raise StoreError(errno.EINVAL, f"quota {name} can't be negative")
        setattr(self, self._field(name), value)

    def _field(self, name: str) -> str:
        field = self.names().get(name)
        if field is None:
            raise StoreError(errno.EINVAL, f"no quota named {name[:40]!r}")
        return field


def passes(used: int, limit: int) -> bool:
    """Whether ``used`` is within a limit."""
    return not limit or used <= limit
