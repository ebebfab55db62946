"""Requests to a guest's kernel through its ``control`` node: shut down, reboot, SysRq."""

from __future__ import annotations

import asyncio

from pyxen.hypervisor.dom0_interface import Dom0Hypercalls, HypercallError
from pyxen.toolstack.domain_record import DomainRecord
from pyxen.toolstack.domain_store import DomainStore
from pyxen.toolstack.errors import Fault, ToolstackError

#: libxl waits as long for the guest to take note of a request, in seconds.
ACKNOWLEDGEMENT_TIMEOUT = 60.0


async def request_shutdown(
    dom0: Dom0Hypercalls, store: DomainStore, record: DomainRecord, request: str, timeout: float = ACKNOWLEDGEMENT_TIMEOUT
) -> None:
    """Ask the guest for ``request`` ("poweroff", "reboot") and return when it took note. Raises ``ToolstackError`` TIMEOUT when it does not
    within ``timeout`` seconds (the request is withdrawn then), STATE when it can't."""
    if dom0.domain_info(record.domid).shutdown:
        raise ToolstackError(f"domain {record.name} is shut down already", Fault.STATE)
    changed = asyncio.Event()
    with store.watching_shutdown(record.domid, changed.set):
        store.request_shutdown(record.domid, request)
        try:
            async with asyncio.timeout(timeout):
                while not store.shutdown_is_acknowledged(record.domid):
                    changed.clear()
                    await changed.wait()
        except TimeoutError:
            if _is_alive(dom0, record.domid):
                store.withdraw_shutdown(record.domid)
                raise ToolstackError(
                    f"domain {record.name} did not acknowledge the {request} request within {timeout:g} s; its kernel may not be up yet, "
                    "or has no support for it; xl destroy stops it at once",
                    Fault.TIMEOUT,
                ) from None


def _is_alive(dom0: Dom0Hypercalls, domid: int) -> bool:
    try:
        info = dom0.domain_info(domid)
    except HypercallError:
        return False
    return not (info.shutdown or info.dying)


def request_sysrq(store: DomainStore, record: DomainRecord, untrusted_key: str) -> None:
    """Press Alt-SysRq-``key`` in the guest. Raises ``ToolstackError``."""
    if len(untrusted_key) != 1 or not untrusted_key.isascii() or not untrusted_key.isprintable():
        raise ToolstackError("a SysRq key is one printable character", Fault.INVALID)
    store.request_sysrq(record.domid, untrusted_key)
