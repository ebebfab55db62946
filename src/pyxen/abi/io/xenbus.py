"""States of a device's two ends, as both write them to XenStore (public header io/xenbus.h)."""

from __future__ import annotations

XenbusStateUnknown = 0
XenbusStateInitialising = 1
XenbusStateInitWait = 2  # waits for the other end or for hotplug scripts
XenbusStateInitialised = 3  # waits for the other end to connect
XenbusStateConnected = 4
XenbusStateClosing = 5
XenbusStateClosed = 6
XenbusStateReconfiguring = 7
XenbusStateReconfigured = 8
