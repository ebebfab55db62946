"""A vCPU that does not leave the guest when it is told to (a defect of the engine) costs its own domain, nobody else."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pyxen.abi import xen
from pyxen.engine.interface import VirtualCpu
from pyxen.hypervisor import hypervisor as hypervisor_module
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.frame_table import L1
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.machine_memory import OWNER_NONE
from pyxen.hypervisor.vcpu import Vcpu
from tests.unit.hypervisor.grant_guest import GrantGuest
from tests.unit.hypervisor.machine import SmallDomain

LOOP = b"\xeb\xfe"


def eventually(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def all_gone(machine: Hypervisor) -> None:
    """A vCPU's thread does the rest of a destruction, in pieces."""
    eventually(lambda: [info.domid for info in machine.dom0.list_domains()] == [0])


class Deaf:
    """The engine's vCPU, but that kicks don't reach it."""

    def __init__(self, cpu: VirtualCpu) -> None:
        self._cpu = cpu

    def __getattr__(self, name: str) -> object:
        return getattr(self._cpu, name)

    def kick(self) -> None:
        """Nothing happens."""


@contextmanager
def stuck(guest: SmallDomain) -> Iterator[Vcpu]:
    """The guest's first vCPU loops, and kicks don't reach it until the block ends."""
    vcpu = guest.vcpu
    cpu = vcpu.cpu
    guest.start(LOOP)
    eventually(lambda: vcpu.in_guest)
    vcpu.cpu = Deaf(cpu)  # type: ignore[assignment]
    try:
        yield vcpu
    finally:
        vcpu.cpu = cpu
        cpu.kick()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer looks: it never leaves."""
    monkeypatch.setattr(hypervisor_module, "SLOW_LOOKS", 50)
    monkeypatch.setattr("pyxen.hypervisor.dom0.END_TIMEOUT_S", 0.05)


def test_pausing_it(machine: Hypervisor) -> None:
    guest, other = SmallDomain(machine), SmallDomain(machine)
    with stuck(guest) as vcpu:
        with pytest.raises(HypercallError) as refusal:
            machine.dom0.pause_domain(guest.domid)
        assert refusal.value.errno == errno.EBUSY
        info = machine.dom0.domain_info(guest.domid)
        assert info.shutdown and "does not leave the guest" in info.crash_cause
        assert vcpu.in_guest
        assert other.call(xen.HYPERVISOR_xen_version, 0) == 4 << 16 | 17
        assert not machine.dom0.domain_info(other.domid).shutdown
    eventually(lambda: not vcpu.in_guest)


def test_pausing_does_not_hold_the_lock(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor_module, "SLOW_LOOKS", 10**9)
    guest = SmallDomain(machine)
    with stuck(guest):
        pausing = threading.Thread(target=machine.dom0.pause_domain, args=(guest.domid,))
        pausing.start()
        eventually(lambda: guest.domain.pause_count > 0)
        for _ in range(50):
            asked = time.monotonic()
            with machine.lock:
                assert time.monotonic() - asked < 1
            time.sleep(0.001)
    pausing.join(10)
    assert not machine.dom0.domain_info(guest.domid).shutdown, "it left in the end, and is merely paused"


def test_a_frame_keeps_its_type_while_a_stale_translation_could_reach_it(machine: Hypervisor) -> None:
    guest = SmallDomain(machine)
    mfn = guest.free_page()
    with stuck(guest), machine.lock:
        machine.frames.get_page_and_type(mfn, guest.domid, 6)
        machine.frames.put_page_and_type(mfn)
        with pytest.raises(HypercallError) as refusal:
            machine.frames.get_page_and_type(mfn, guest.domid, L1)
        assert refusal.value.errno == errno.EBUSY
        assert guest.domain.is_shut_down


def test_a_frame_is_not_reused_while_a_stale_translation_could_reach_it(machine: Hypervisor) -> None:
    guest = SmallDomain(machine)
    mfn = guest.free_page()
    with stuck(guest):
        with machine.lock:
            guest.domain.release_frame(mfn)
        assert machine.memory.owner[mfn] == guest.domid
        machine.dom0.destroy_domain(guest.domid)
        assert machine.memory.owner[mfn] == guest.domid
    all_gone(machine)
    assert machine.memory.owner[mfn] == OWNER_NONE


def test_a_granted_frame_is_not_given_back_while_a_stale_translation_could_reach_it(machine: Hypervisor) -> None:
    granter, mapper = GrantGuest(machine), GrantGuest(machine)
    mfn = granter.grant(1, mapper.domid, pfn=11)
    handle = mapper.map(granter.domid, 1).handle
    with stuck(mapper):
        mapper.unmap(handle)
        granter.destroy()
        machine.dom0.destroy_domain(mapper.domid)
        assert machine.memory.owner[mfn] == granter.domid
    all_gone(machine)
    assert machine.memory.owner[mfn] == OWNER_NONE


def test_destroying_it(machine: Hypervisor) -> None:
    """The call returns, the domain stays behind as a dying one, and is gone when the vCPU has left at last."""
    guest, other = SmallDomain(machine), SmallDomain(machine)
    with stuck(guest):
        machine.dom0.destroy_domain(guest.domid)
        machine.dom0.destroy_domain(guest.domid)
        info = machine.dom0.domain_info(guest.domid)
        assert info.dying and info.total_pages
        other.destroy()
    all_gone(machine)


@pytest.mark.parametrize(
    "call",
    [
        lambda dom0, domid: dom0.pause_domain(domid),
        lambda dom0, domid: dom0.unpause_domain(domid),
        lambda dom0, domid: dom0.resume_domain(domid),
        lambda dom0, domid: dom0.set_max_memory(domid, 1),
        lambda dom0, domid: dom0.send_nmi(domid, 0),
        lambda dom0, domid: dom0.populate_physmap(domid, 1),
    ],
)
def test_a_dying_domain_is_left_alone(machine: Hypervisor, call) -> None:  # type: ignore[no-untyped-def]
    guest = SmallDomain(machine)
    machine.dom0.map_foreign(guest.domid, guest.mfns[5])
    guest.destroy()
    assert machine.dom0.domain_info(guest.domid).dying
    with pytest.raises(HypercallError) as refusal:
        call(machine.dom0, guest.domid)
    assert refusal.value.errno == errno.EINVAL
    machine.dom0.unmap_foreign(guest.domid, guest.mfns[5])
