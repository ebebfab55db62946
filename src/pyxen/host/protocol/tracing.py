"""Calls that show hypercalls, events and life cycle as they happen."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pyxen.host.protocol.common import Nothing, StreamMethod


@dataclass(frozen=True)
class TraceRequest:
    """What to trace."""

    domid: int | None = None  #: None: all domains
    kinds: list[str] = field(default_factory=list)  #: "hypercall", "event", "lifecycle"; empty: all
    names: list[str] = field(default_factory=list)  #: only hypercalls of these names; empty: all


@dataclass(frozen=True)
class TraceEvent:
    """One hypercall, event or change of life cycle."""

    kind: str  #: "hypercall", "event", "lifecycle"
    time_ns: int  #: host's monotonic clock
    domid: int
    vcpu: int
    name: str  #: "mmu_update", "event_channel_op", "EVTCHNOP_send", "created" ...
    arguments: dict[str, Any]
    result: int | None = None
    result_name: str = ""  #: "-EINVAL" and the like, empty for success
    dropped: int = 0  #: events before this one that the reader was too slow for


#: Ends when the traced domain is destroyed; never for all domains.
TRACE_SUBSCRIBE = StreamMethod("trace.subscribe", TraceRequest, TraceEvent, Nothing)
