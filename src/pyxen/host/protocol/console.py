"""Calls about guests' consoles."""

from __future__ import annotations

from dataclasses import dataclass

from pyxen.host.protocol.common import DomainId, Method, Nothing, StreamMethod


@dataclass(frozen=True)
class ConsolePath:
    """Where the console can be opened."""

    path: str  #: slave side of the pseudo-terminal


@dataclass(frozen=True)
class ConsoleAttachRequest:
    """A reader of the console."""

    domid: int
    replay: bool = True  #: begin with the output that the host still has; False: with what comes next


@dataclass(frozen=True)
class ConsoleOutput:
    """Some console output."""

    data: bytes
    lost: int = 0  #: bytes before ``data`` that this reader was too slow for
    replayed: bool = False  #: it is from before the attachment


@dataclass(frozen=True)
class ConsoleInput:
    """Keys for the console."""

    domid: int
    data: bytes


@dataclass(frozen=True)
class ConsoleAccepted:
    """How much of the input was taken."""

    accepted: int  #: bytes taken; fewer than sent when the guest does not read


CONSOLE_PATH = Method("console.path", DomainId, ConsolePath)


#: The first event, without data, says that no output can be missed any more. Ends when the domain is gone and all its output was sent.
CONSOLE_ATTACH = StreamMethod("console.attach", ConsoleAttachRequest, ConsoleOutput, Nothing)


CONSOLE_WRITE = Method("console.write", ConsoleInput, ConsoleAccepted)
