"""Domain 0's calls: errors, creation that fails, mappings of guest frames, and destruction that gives everything back."""

from __future__ import annotations

import contextlib
import errno
import threading

import numpy as np
import pytest

from pyxen.abi.xen import HYPERVISOR_memory_op
from pyxen.hypervisor import descriptors
from pyxen.hypervisor.dom0_interface import DomainInfo, GuestRegisters, HypercallError, ShutdownReason
from pyxen.hypervisor.frame_table import L1, L4, SEGMENT_DESCRIPTORS
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.machine import PAGE, SmallDomain

HANDLE = bytes(range(16))
NOBODY = 77


def refused(number: int) -> pytest.RaisesExc[HypercallError]:
    return pytest.raises(HypercallError, check=lambda refusal: refusal.errno == number)


@pytest.mark.parametrize(
    "call",
    [
        lambda dom0: dom0.destroy_domain(NOBODY),
        lambda dom0: dom0.pause_domain(NOBODY),
        lambda dom0: dom0.unpause_domain(NOBODY),
        lambda dom0: dom0.shutdown_domain(NOBODY, ShutdownReason.POWEROFF),
        lambda dom0: dom0.resume_domain(NOBODY),
        lambda dom0: dom0.set_max_memory(NOBODY, 1),
        lambda dom0: dom0.domain_info(NOBODY),
        lambda dom0: dom0.vcpu_info(NOBODY),
        lambda dom0: dom0.set_vcpu_context(NOBODY, 0, GuestRegisters(rip=0, rsp=0)),
        lambda dom0: dom0.set_vcpu_affinity(NOBODY, 0, None, None),
        lambda dom0: dom0.send_nmi(NOBODY, 0),
        lambda dom0: dom0.populate_physmap(NOBODY, 1),
        lambda dom0: dom0.map_foreign(NOBODY, 1),
        lambda dom0: dom0.unmap_foreign(NOBODY, 1),
        lambda dom0: dom0.write_foreign(NOBODY, np.zeros(1, dtype=np.uint64), b"x"),
        lambda dom0: dom0.set_p2m(NOBODY, np.zeros(1, dtype=np.uint64)),
        lambda dom0: dom0.shared_info_frame(NOBODY),
        lambda dom0: dom0.memory_list(NOBODY),
        lambda dom0: dom0.evtchn_alloc_unbound(NOBODY, 0),
        lambda dom0: dom0.bind_interdomain(NOBODY, 1, lambda: None),
        lambda dom0: dom0.map_grant(NOBODY, 0, writable=True),
        lambda dom0: dom0.unmap_grant(NOBODY, 0),
        lambda dom0: dom0.set_grant_entry(NOBODY, 0, 0, 1),
    ],
)
def test_no_such_domain(machine: Hypervisor, call) -> None:  # type: ignore[no-untyped-def]
    with refused(errno.ESRCH):
        call(machine.dom0)


def test_two_destroy_one_domain_at_once(machine: Hypervisor) -> None:
    """It is destroyed in pieces, between which the second may come: it returns when everything is given back, too."""
    free = machine.memory.free_frames
    guest = SmallDomain(machine, pages=500)
    left: list[int] = []

    def destroy() -> None:
        with contextlib.suppress(HypercallError):  # ESRCH for who comes when it is over
            machine.dom0.destroy_domain(guest.domid)
        left.append(free - machine.memory.free_frames)

    threads = [threading.Thread(target=destroy) for _ in range(4)]
    with machine.lock:
        for thread in threads:
            thread.start()
    for thread in threads:
        thread.join()
    assert left == [0, 0, 0, 0]


def test_domain_0_is_not_a_guest(machine: Hypervisor) -> None:
    dom0 = machine.dom0
    for call in (dom0.destroy_domain, dom0.pause_domain, dom0.unpause_domain, dom0.resume_domain, dom0.shared_info_frame):
        with refused(errno.EINVAL):
            call(0)
    assert dom0.domain_info(0).running


@pytest.mark.parametrize(
    "arguments",
    [
        {"handle": b"short"},
        {"max_vcpus": 0},
        {"max_vcpus": 17},
        {"max_evtchn_port": 0},
        {"max_grant_frames": 0},
        {"max_grant_frames": 5000},
    ],
)
def test_bad_creation(machine: Hypervisor, arguments: dict[str, object]) -> None:
    free = machine.memory.free_frames
    with refused(errno.EINVAL):
        machine.dom0.create_domain(**{"kind": "pv", "handle": HANDLE, "max_vcpus": 1} | arguments)  # type: ignore[arg-type]
    with refused(errno.EOPNOTSUPP):
        machine.dom0.create_domain(kind="hvm", handle=HANDLE, max_vcpus=1)
    assert machine.memory.free_frames == free
    assert [info.domid for info in machine.dom0.list_domains()] == [0]


@pytest.mark.parametrize("spare", range(5))
def test_creation_without_memory_leaves_nothing(machine: Hypervisor, spare: int) -> None:
    """A domain takes five frames before it has memory of its own; whichever is missing."""
    with machine.lock:
        taken = machine.memory.allocate(0x7FF2, machine.memory.free_frames - spare)
    try:
        with refused(errno.ENOMEM):
            machine.dom0.create_domain(kind="pv", handle=HANDLE, max_vcpus=1)
        assert machine.memory.free_frames == spare
        assert [info.domid for info in machine.dom0.list_domains()] == [0]
    finally:
        with machine.lock:
            machine.memory.release(taken)
    SmallDomain(machine)


def test_creation_with_a_failing_engine_leaves_nothing(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    free = machine.memory.free_frames
    create, made = machine.engine.create_cpu, []

    def failing(**options: bool):  # type: ignore[no-untyped-def]
        if len(made) == 2:
            raise RuntimeError("no more")
        made.append(create(**options))
        return made[-1]

    monkeypatch.setattr(machine.engine, "create_cpu", failing)
    with pytest.raises(RuntimeError):
        machine.dom0.create_domain(kind="pv", handle=HANDLE, max_vcpus=4)
    assert machine.memory.free_frames == free
    assert [info.domid for info in machine.dom0.list_domains()] == [0]


def test_ids_are_not_used_again_at_once(machine: Hypervisor) -> None:
    first = SmallDomain(machine)
    first.destroy()
    assert SmallDomain(machine).domid == first.domid + 1


def test_populate(machine: Hypervisor) -> None:
    guest = SmallDomain(machine, max_pages=70)
    free = machine.memory.free_frames
    with refused(errno.ENOMEM):
        guest.dom0.populate_physmap(guest.domid, 7)
    assert len(guest.dom0.populate_physmap(guest.domid, 6)) == 6
    assert machine.memory.free_frames == free - 6
    guest.dom0.set_max_memory(guest.domid, 1 << 30)
    with refused(errno.ENOMEM):
        guest.dom0.populate_physmap(guest.domid, machine.memory.free_frames + 1)
    info = guest.dom0.domain_info(guest.domid)
    assert (info.total_pages, info.max_pages) == (70, 1 << 30)
    with refused(errno.EINVAL):
        guest.dom0.set_max_memory(guest.domid, -1)


def test_foreign_frames(machine: Hypervisor) -> None:
    one, other = SmallDomain(machine), SmallDomain(machine)
    for mfn in (other.mfns[0], 0, machine.memory.total_frames, -1):
        with refused(errno.EPERM):
            one.dom0.map_foreign(one.domid, mfn)
    view = one.dom0.map_foreign(one.domid, one.mfns[3])
    view[10:13] = b"abc"
    assert one.read(one.at(3, 10), 3) == b"abc"
    with refused(errno.EINVAL):
        one.dom0.unmap_foreign(one.domid, one.mfns[4])
    one.dom0.unmap_foreign(one.domid, one.mfns[3])
    with refused(errno.EINVAL):
        one.dom0.unmap_foreign(one.domid, one.mfns[3])
    with refused(errno.EPERM):
        one.dom0.write_foreign(one.domid, np.array([other.mfns[0]], dtype=np.uint64), b"x")
    with refused(errno.EINVAL):
        one.dom0.write_foreign(one.domid, np.array(one.mfns[:1], dtype=np.uint64), bytes(PAGE + 1))
    with refused(errno.EPERM):
        one.dom0.set_p2m(one.domid, np.array([other.mfns[0]], dtype=np.uint64))
    for bad in (machine.memory.total_frames, (1 << 64) - 1):
        frames = np.array([bad], dtype=np.uint64)
        with refused(errno.EINVAL):
            one.dom0.write_foreign(one.domid, frames, b"x")
        with refused(errno.EINVAL):
            one.dom0.set_p2m(one.domid, frames)


def test_write_foreign_keeps_the_rest_of_the_last_page(guest: SmallDomain) -> None:
    guest.write(guest.at(2, 100), b"stays")
    mfns = np.array([guest.mfns[5], guest.mfns[2]], dtype=np.uint64)
    guest.dom0.write_foreign(guest.domid, mfns, bytes([1]) * PAGE + b"tail")
    assert guest.read(guest.at(5, PAGE - 1), 1) == b"\x01"
    assert guest.read(guest.at(2), 4) == b"tail" and guest.read(guest.at(2, 100), 5) == b"stays"


def test_write_foreign_spares_tables(guest: SmallDomain) -> None:
    with refused(errno.EBUSY):
        guest.dom0.write_foreign(guest.domid, np.array([guest.l1], dtype=np.uint64), b"x")


def test_what_domain_0_may_write_becomes_no_table(guest: SmallDomain) -> None:
    """Else a guest could have a backend write its page tables, with data of its choice."""
    mfn = guest.free_page()
    guest.dom0.map_foreign(guest.domid, mfn)
    for kind in (L1, L4, SEGMENT_DESCRIPTORS):
        with guest.hypervisor.lock, refused(errno.EINVAL):
            guest.frames.get_page_and_type(mfn, guest.domid, kind)
    guest.dom0.unmap_foreign(guest.domid, mfn)
    with guest.hypervisor.lock:
        guest.frames.pin(mfn, guest.domid, L1)


def test_tables_are_mapped_read_only(guest: SmallDomain) -> None:
    view = guest.dom0.map_foreign(guest.domid, guest.l1)
    assert view.readonly
    with pytest.raises(TypeError):
        view[0] = 1
    guest.dom0.unmap_foreign(guest.domid, guest.l1)


def test_a_mapped_frame_outlives_the_guests_reservation(guest: SmallDomain) -> None:
    mfn = guest.free_page()
    view = guest.dom0.map_foreign(guest.domid, mfn)
    free = guest.hypervisor.memory.free_frames
    pages = guest.dom0.domain_info(guest.domid).total_pages
    guest.put("Q", mfn, at=guest.at(0, 64))
    guest.put("QQIIHxxxxxx", guest.at(0, 64), 1, 0, 0, 0x7FF0)
    assert guest.call(HYPERVISOR_memory_op, 1, guest.at(0)) == 1
    view[0] = 7
    assert guest.hypervisor.memory.free_frames == free
    assert guest.dom0.domain_info(guest.domid).total_pages == pages
    guest.dom0.unmap_foreign(guest.domid, mfn)
    assert guest.hypervisor.memory.free_frames == free + 1
    assert guest.dom0.domain_info(guest.domid).total_pages == pages - 1
    assert not any(guest.hypervisor.memory.page(mfn))


def info_of(machine: Hypervisor, domid: int) -> DomainInfo | None:
    return next((info for info in machine.dom0.list_domains() if info.domid == domid), None)


def test_destroyed_while_mapped(machine: Hypervisor) -> None:
    guest = SmallDomain(machine)
    machine.dom0.set_grant_entry(guest.domid, 8, 0, guest.mfns[4])
    machine.dom0.map_foreign(guest.domid, guest.mfns[3])
    machine.dom0.map_foreign(guest.domid, guest.mfns[3])
    machine.dom0.map_foreign(guest.domid, guest.l1)
    view = machine.dom0.map_grant(guest.domid, 8, writable=True)
    free = machine.memory.free_frames
    guest.destroy()
    guest.destroy()  # again: nothing new
    before = machine.memory.free_frames
    assert before > free + 60, "what nobody maps is free at once"
    invariants.check(machine)
    for unmap in (
        lambda: machine.dom0.unmap_foreign(guest.domid, guest.mfns[3]),
        lambda: machine.dom0.unmap_foreign(guest.domid, guest.mfns[3]),
        lambda: machine.dom0.unmap_foreign(guest.domid, guest.l1),
        lambda: machine.dom0.unmap_grant(guest.domid, 8),
    ):
        info = info_of(machine, guest.domid)
        assert info is not None and info.dying
        view[0] = 1
        unmap()
        invariants.check(machine)
    assert info_of(machine, guest.domid) is None
    assert machine.memory.free_frames == before + 3


def test_context_of_a_vcpu_that_is_not_there(guest: SmallDomain) -> None:
    for vcpu in (-1, 1):
        with refused(errno.EINVAL):
            guest.dom0.set_vcpu_context(guest.domid, vcpu, GuestRegisters(rip=0, rsp=0, cr3_mfn=guest.l4))
        with refused(errno.EINVAL):
            guest.dom0.send_nmi(guest.domid, vcpu)
        with refused(errno.EINVAL):
            guest.dom0.set_vcpu_affinity(guest.domid, vcpu, None, None)


def test_context_with_a_bad_root_leaves_no_pin(machine: Hypervisor) -> None:
    guest = SmallDomain(machine)
    page = guest.free_page()
    machine.memory.words[page << 9] = 1 << 7 | 1 | guest.mfns[0] << 12  # a superpage
    for mfn, number in ((page, errno.EINVAL), (guest.l1, errno.EINVAL), (1, errno.EINVAL), (machine.memory.total_frames, errno.EINVAL)):
        with refused(number):
            machine.dom0.set_vcpu_context(guest.domid, 0, GuestRegisters(rip=0, rsp=0, cr3_mfn=mfn))
    machine.memory.words[page << 9] = 0
    with refused(errno.EINVAL):
        machine.dom0.set_vcpu_context(guest.domid, 0, GuestRegisters(rip=1 << 60, rsp=0, cr3_mfn=page))
    assert guest.count(page) == (1, 0)


def test_pause_counts(guest: SmallDomain) -> None:
    dom0 = guest.dom0
    assert dom0.domain_info(guest.domid).paused
    dom0.pause_domain(guest.domid)
    dom0.unpause_domain(guest.domid)
    assert dom0.domain_info(guest.domid).paused
    dom0.unpause_domain(guest.domid)
    assert not dom0.domain_info(guest.domid).paused
    with refused(errno.EINVAL):
        dom0.unpause_domain(guest.domid)


def test_shut_down_and_resumed(guest: SmallDomain) -> None:
    heard = []
    unsubscribe = guest.dom0.subscribe_domain_exceptions(lambda: heard.append(guest.dom0.domain_info(guest.domid).shutdown_reason))
    with refused(errno.EINVAL):
        guest.dom0.resume_domain(guest.domid)
    guest.dom0.shutdown_domain(guest.domid, ShutdownReason.SUSPEND)
    guest.dom0.shutdown_domain(guest.domid, ShutdownReason.CRASH)  # the first one counts
    info = guest.dom0.domain_info(guest.domid)
    assert info.shutdown and info.shutdown_reason is ShutdownReason.SUSPEND
    guest.dom0.resume_domain(guest.domid)
    assert not guest.dom0.domain_info(guest.domid).shutdown
    unsubscribe()
    guest.dom0.shutdown_domain(guest.domid, ShutdownReason.POWEROFF)
    assert heard == [ShutdownReason.SUSPEND]


def test_a_raising_handler_does_not_stop_the_others(guest: SmallDomain) -> None:
    heard = []

    def fails() -> None:
        raise RuntimeError("the loop is closed")

    guest.dom0.subscribe_domain_exceptions(fails)
    guest.dom0.subscribe_domain_exceptions(lambda: heard.append(1))
    guest.dom0.shutdown_domain(guest.domid, ShutdownReason.POWEROFF)
    assert heard == [1]
    assert "the loop is closed" in guest.dom0.read_console_ring()


def test_descriptor_pages_are_given_back(guest: SmallDomain) -> None:
    mfn = guest.free_page()
    with guest.hypervisor.lock:
        descriptors.set_gdt(guest.vcpu, [mfn], 512)
    assert guest.count(mfn) == (2, 1)


def test_physical_info(machine: Hypervisor) -> None:
    info = machine.dom0.physical_info()
    assert info.total_pages == (64 << 20) // PAGE and info.max_mfn == info.total_pages - 1
    assert info.free_pages == machine.memory.free_frames and info.nr_cpus > 0 and info.cpu_khz > 0 and len(info.hw_caps) == 8
