"""Copies by Domain 0: the short way, for the grants that most are, answers and leaves behind what the long way does."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from pyxen.abi.grant_table import GTF_accept_transfer, GTF_permit_access, GTF_reading, GTF_readonly, GTF_writing
from pyxen.hypervisor import grant_copy
from pyxen.hypervisor.dom0_interface import GrantCopy
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GRANTED_PAGE, GrantGuest
from tests.unit.hypervisor.machine import new_machine

REFERENCE = 40
FLAGS = (
    GTF_permit_access,
    GTF_permit_access | GTF_readonly,
    GTF_permit_access | GTF_reading,
    GTF_accept_transfer,
    0,
    GTF_permit_access | 1 << 8,
)


@pytest.fixture(scope="module")
def machine() -> Iterator[Hypervisor]:
    hypervisor = new_machine()
    yield hypervisor
    invariants.check(hypervisor)
    hypervisor.close()


def _outcome(guest: GrantGuest, flags: int, domid: int, mfn: int, offset: int, size: int, to_guest: bool) -> tuple[object, ...]:
    """One copy of a freshly written grant: status, marks, and both ends' octets."""
    octets = guest.hypervisor.memory.octets
    start = guest.mfns[GRANTED_PAGE] << 12
    octets[start : start + 4096] = bytes(index % 251 for index in range(4096))
    guest.set_entry(REFERENCE, flags | domid << 16, mfn)
    local = bytearray(b"\xee" * size)
    status = guest.dom0.grant_copy([GrantCopy(guest.domid, REFERENCE, offset, memoryview(local), to_guest)])
    assert guest.domain.grant_table.active == {}
    return status, guest.entry(REFERENCE), bytes(local), bytes(octets[start : start + 4096])


@pytest.mark.parametrize("to_guest", [False, True])
def test_both_ways_agree(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch, to_guest: bool) -> None:
    guest = GrantGuest(machine)
    try:
        own, table, foreign = guest.mfns[GRANTED_PAGE], guest.domain.grant_table.frames[0], 1
        places = ((0, 4096), (100, 7), (4090, 6), (4090, 7), (0, 0))
        cases = list(itertools.product(FLAGS, (0, 5), (own, table, foreign, 0xFFFFFFFF), places))
        short = [_outcome(guest, flags, domid, mfn, *place, to_guest) for flags, domid, mfn, place in cases]
        taken = sum(outcome[0] == [0] for outcome in short)
        monkeypatch.setattr(grant_copy, "_copy_plain_page", lambda caller, operation: False)
        assert [_outcome(guest, flags, domid, mfn, *place, to_guest) for flags, domid, mfn, place in cases] == short
        assert taken > 0
    finally:
        guest.destroy()


def test_the_short_way_is_taken(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = GrantGuest(machine)
    try:
        monkeypatch.setattr(grant_copy, "_copy_any", None)
        for to_guest in (False, True):
            assert _outcome(guest, GTF_permit_access, 0, guest.mfns[GRANTED_PAGE], 0, 4096, to_guest)[0] == [0]
            assert guest.entry(REFERENCE)[0] & (GTF_reading | GTF_writing) == 0
    finally:
        guest.destroy()
