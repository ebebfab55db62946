"""``pyxen trace``: what a domain asks of the hypervisor, as it happens."""

from __future__ import annotations

import json
import sys
from typing import Any

from pyxen.host import wire
from pyxen.host.client import Client
from pyxen.host.protocol import DOMAIN_RESOLVE, TRACE_SUBSCRIBE, Identifier, TraceEvent, TraceRequest


def run_trace(client: Client, domain: str | None, kinds: list[str], names: list[str], *, as_json: bool) -> int:
    """Print events until the domain is gone, or for ever for all domains. Returns the exit status."""
    domid = client.call(DOMAIN_RESOLVE, Identifier(domain)).domid if domain is not None else None
    began: int | None = None
    with client.stream(TRACE_SUBSCRIBE, TraceRequest(domid, kinds, names)) as events:
        for event in events:
            began = event.time_ns if began is None else began
            line = json.dumps(wire.encode(event)) if as_json else format_event(event, began)
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
    return 0


def format_event(event: TraceEvent, began_ns: int) -> str:
    """One line (two if events were lost before it): seconds since the first, domain and vCPU, the event, its result."""
    arguments = ", ".join(f"{name}={_value(value)}" for name, value in event.arguments.items())
    line = f"{(event.time_ns - began_ns) / 1e9:12.6f} d{event.domid}v{event.vcpu} "
    line += f"{event.name}({arguments})" if event.kind == "hypercall" else f"{event.kind} {event.name} {arguments}".rstrip()
    if event.result is not None:
        line += f" = {event.result_name or _value(event.result)}"
    return f"[{event.dropped} events were lost: the reader is too slow]\n{line}" if event.dropped else line


def _value(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}={_value(item)}" for key, item in value.items()) + "}"
    if type(value) is int:
        return hex(value) if value > 0xFFFF else str(value)
    return str(value)
