"""What Domain 0 writes into a guest's memory is what the guest executes from then on, although code of the page had been translated."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from pyxen.abi import xen
from pyxen.hypervisor.dom0_interface import ShutdownReason
from tests.unit.hypervisor.machine import SmallDomain

FUNCTION_PFN, RESULT_PFN, REASON_PFN = 8, 9, 10
REFERENCE = 8


def function(value: int) -> bytes:
    """mov eax, value; ret"""
    return b"\xb8" + struct.pack("<I", value) + b"\xc3"


def call_and_stop(result: int) -> bytes:
    """Call the function, store what it says, and shut down with the reason that is in memory."""
    return (
        b"\x48\xbb"
        + struct.pack("<Q", SmallDomain.at(FUNCTION_PFN))
        + b"\xff\xd3"  # call rbx
        + b"\x48\xbb"
        + struct.pack("<Q", SmallDomain.at(RESULT_PFN, 8 * result))
        + b"\x48\x89\x03"  # mov [rbx], rax
        + b"\xbf\x02\x00\x00\x00\x48\xbe"
        + struct.pack("<Q", SmallDomain.at(REASON_PFN))
        + b"\xb8"
        + struct.pack("<I", xen.HYPERVISOR_sched_op)
        + b"\x0f\x05"
    )


def by_grant(guest: SmallDomain, code: bytes) -> None:
    page = guest.dom0.map_grant(guest.domid, REFERENCE, writable=True)
    page[: len(code)] = code
    guest.dom0.unmap_grant(guest.domid, REFERENCE)


def by_foreign_mapping(guest: SmallDomain, code: bytes) -> None:
    mfn = guest.mfns[FUNCTION_PFN]
    guest.dom0.map_foreign(guest.domid, mfn)[: len(code)] = code
    guest.dom0.unmap_foreign(guest.domid, mfn)


@pytest.mark.parametrize("write", [by_grant, by_foreign_mapping])
def test_new_code_is_executed(guest: SmallDomain, write: Callable[[SmallDomain, bytes], None]) -> None:
    guest.dom0.set_grant_entry(guest.domid, REFERENCE, 0, guest.mfns[FUNCTION_PFN])
    guest.write(guest.at(FUNCTION_PFN), function(111))
    guest.put("I", ShutdownReason.SUSPEND, at=guest.at(REASON_PFN))
    guest.start(call_and_stop(0) + call_and_stop(1) + b"\xeb\xfe")
    assert guest.wait_for_shutdown().shutdown_reason is ShutdownReason.SUSPEND
    write(guest, function(222))
    guest.dom0.resume_domain(guest.domid)
    guest.wait_for_shutdown()
    assert guest.get("2Q", at=guest.at(RESULT_PFN)) == (111, 222)
