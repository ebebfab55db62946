"""Every method of the protocol, by its name."""

from __future__ import annotations

from typing import Any

from pyxen.host.protocol import console, devices, domains, host_process, scheduling, statistics, timeline, tracing
from pyxen.host.protocol.common import Method, StreamMethod

METHODS: dict[str, Method[Any, Any] | StreamMethod[Any, Any, Any]] = {
    method.name: method
    for module in (console, devices, domains, host_process, scheduling, statistics, timeline, tracing)
    for method in vars(module).values()
    if isinstance(method, Method | StreamMethod)
}
