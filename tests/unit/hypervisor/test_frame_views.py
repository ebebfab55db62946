"""Views of guests' frames in Domain 0's programs: they end with their mapping, and what outlives it keeps the frame where it is."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor.grant_guest import GrantGuest
from tests.unit.hypervisor.machine import SmallDomain


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_a_view_ends_with_its_mapping(guest: SmallDomain) -> None:
    mfn, dom0 = guest.mfns[5], guest.dom0
    view = dom0.map_foreign(guest.domid, mfn)
    view[7] = 1
    dom0.unmap_foreign(guest.domid, mfn)
    with pytest.raises(ValueError, match="released"):
        view[7] = 2
    assert guest.hypervisor.memory.octets[(mfn << 12) + 7] == 1


def test_a_view_ends_with_its_grant(machine: Hypervisor) -> None:
    granter = GrantGuest(machine)
    granter.grant(1, 0, pfn=11)
    view = machine.dom0.map_grant(granter.domid, 1, writable=True)
    machine.dom0.unmap_grant(granter.domid, 1)
    with pytest.raises(ValueError, match="released"):
        view[0] = 2


@pytest.mark.parametrize("derive", [lambda view: view[10:20], lambda view: np.frombuffer(view, dtype=np.uint8)], ids=["slice", "array"])
def test_what_outlives_a_mapping_keeps_the_frame(machine: Hypervisor, derive: Callable[[memoryview], object]) -> None:
    """The domain dies, and the frame is nobody else's as long as somebody could write to it."""
    guest = SmallDomain(machine)
    mfn, dom0, free = guest.mfns[5], machine.dom0, machine.memory.free_frames
    derived = [derive(dom0.map_foreign(guest.domid, mfn))]
    dom0.unmap_foreign(guest.domid, mfn)
    with pytest.raises(HypercallError, match="not mapped"):
        dom0.unmap_foreign(guest.domid, mfn)
    with machine.lock, pytest.raises(HypercallError, match="in use as writable"):
        machine.frames.get_page_and_type(mfn, guest.domid, L1)
    guest.destroy()
    assert machine.memory.owner[mfn] == guest.domid
    assert f"frame {mfn:#x} outlives its mapping" in dom0.read_console_ring()
    derived.clear()
    eventually(lambda: machine.memory.owner[mfn] != guest.domid)
    assert machine.memory.free_frames > free + 60
    assert [info.domid for info in dom0.list_domains()] == [0]


def test_what_outlives_a_grant_keeps_it_in_use(machine: Hypervisor) -> None:
    granter = GrantGuest(machine)
    granter.grant(1, 0, pfn=11)
    derived = [machine.dom0.map_grant(granter.domid, 1, writable=True)[:8]]
    machine.dom0.unmap_grant(granter.domid, 1)
    assert granter.marks(1)
    derived.clear()
    eventually(lambda: not granter.marks(1))


def test_views_of_one_frame_end_with_the_last_mapping(guest: SmallDomain) -> None:
    """Which of several mappings ends is not said, so no view that may still be needed is taken away."""
    mfn, dom0 = guest.mfns[5], guest.dom0
    first, second = dom0.map_foreign(guest.domid, mfn), dom0.map_foreign(guest.domid, mfn)
    dom0.unmap_foreign(guest.domid, mfn)
    first[0] = 1
    assert second[0] == 1
    dom0.unmap_foreign(guest.domid, mfn)
    for view in (first, second):
        with pytest.raises(ValueError, match="released"):
            view[0]
    assert guest.count(mfn) == (2, 1)


def test_a_view_of_a_table_is_read_only(guest: SmallDomain) -> None:
    view = guest.dom0.map_foreign(guest.domid, guest.l1)
    assert view.readonly and view.nbytes == 4096 and view.format == "B"
    guest.dom0.unmap_foreign(guest.domid, guest.l1)
