"""What can go wrong in the life of a domain, and who is at fault."""

from __future__ import annotations

import enum


class Fault(enum.StrEnum):
    """Who or what is at fault."""

    INVALID = "invalid"  #: an argument or the configuration
    NOT_FOUND = "not-found"
    EXISTS = "exists"
    STATE = "state"  #: the domain is not in a state that allows it
    RESOURCE = "resource"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"
    GUEST = "guest"


class ToolstackError(Exception):
    """A request was refused or failed. ``str()`` is one line for the user."""

    def __init__(self, message: str, fault: Fault) -> None:
        super().__init__(message)
        self.fault = fault
