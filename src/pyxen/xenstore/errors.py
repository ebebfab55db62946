"""Errors of the store: an errno, which goes over the wire by its name, and what was asked for."""

from __future__ import annotations

import errno

from pyxen.abi.io import xs_wire


class StoreError(Exception):
    """A request was refused. ``errno`` is positive; the caller of the request is at fault unless it is EIO or ENOMEM."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(f"{reason} ({errno.errorcode.get(number, number)})")
        self.errno = number
        self.reason = reason

    @property
    def wire_name(self) -> str:
        """The name sent in an XS_ERROR reply: EINVAL for an errno that the protocol has no name for, as in xenstored."""
        name = errno.errorcode.get(self.errno, "EINVAL")
        return name if name in xs_wire.xsd_errors else "EINVAL"


class ProtocolViolationError(Exception):
    """The peer broke the framing of the wire protocol: its connection can't be trusted any longer."""
