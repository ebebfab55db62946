"""What all parts of the control protocol share: how calls are declared, how they fail, and the smallest parameters and results."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Generic, TypeVar

P = TypeVar("P")


R = TypeVar("R")


E = TypeVar("E")


#: Longest line in either direction, in bytes. A configuration or a log excerpt is far smaller.
MAX_LINE_BYTES = 8 << 20


class ErrorKind(enum.StrEnum):
    """Who or what is at fault."""

    INVALID = "invalid"  #: an argument or the configuration
    NOT_FOUND = "not-found"  #: no such domain, file
    EXISTS = "exists"  #: the name or UUID is in use
    STATE = "state"  #: the domain is not in a state that allows it
    RESOURCE = "resource"  #: not enough memory, or another limit
    UNSUPPORTED = "unsupported"  #: pyxen does not do this
    TIMEOUT = "timeout"  #: the guest or the host did not answer in time
    GUEST = "guest"  #: the guest refused or failed
    PROTOCOL = "protocol"  #: a malformed request or answer
    INTERNAL = "internal"  #: a fault of pyxen itself
    HOST = "host"  #: the host process can't be started or reached


class HostError(Exception):
    """A request failed. ``str()`` is one line for the user."""

    def __init__(self, message: str, kind: ErrorKind = ErrorKind.INVALID, errno: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.errno = errno


@dataclass(frozen=True)
class Nothing:
    """No parameters, or no result beyond success."""


@dataclass(frozen=True)
class Progress:
    """How far a long call is. ``total`` 0: unknown."""

    stage: str
    done: int = 0
    total: int = 0


@dataclass(frozen=True)
class Text:
    """Plain text for the user."""

    text: str


@dataclass(frozen=True)
class DomainId:
    """The one domain that a call is about."""

    domid: int


@dataclass(frozen=True)
class OptionalDomainId:
    """One domain, or all."""

    domid: int | None = None  #: None: all


@dataclass(frozen=True)
class Method(Generic[P, R]):
    """A call: parameters in, one result out."""

    name: str
    parameters: type[P]
    result: type[R]


@dataclass(frozen=True)
class StreamMethod(Generic[P, E, R]):
    """A call that sends events until it ends with a result."""

    name: str
    parameters: type[P]
    event: type[E]
    result: type[R]
