"""pyxen: the Xen system as an ordinary program. ``import pyxen`` gives the Python API; see ``pyxen.api``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyxen.api import Console, Domain, DomainTimeoutError, Host
    from pyxen.host.protocol import DomainDetail, DomainState, ErrorKind, HostError, HostStatus, PhysInfo, StateChange, TraceEvent

__all__ = [
    "Console",
    "Domain",
    "DomainDetail",
    "DomainState",
    "DomainTimeoutError",
    "ErrorKind",
    "Host",
    "HostError",
    "HostStatus",
    "PhysInfo",
    "StateChange",
    "TraceEvent",
]

_OWN = ("Console", "Domain", "DomainTimeoutError", "Host")


def __getattr__(name: str) -> Any:
    """Looked up at its first use: every command and the host process import this package, and few of them need the API."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module("pyxen.api" if name in _OWN else "pyxen.host.protocol"), name)
    globals()[name] = value
    return value
