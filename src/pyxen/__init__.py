"""pyxen: the Xen system as an ordinary program. ``import pyxen`` gives the Python API; see ``pyxen.api``."""

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
