"""Ports: operations and their refusals, limits, what becomes of them when an end goes away. With the 2-level ABI unless said."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from pyxen.abi import event_channel as abi
from pyxen.abi.xen import NR_VIRQS, VIRQ_CON_RING, VIRQ_DEBUG, VIRQ_TIMER
from pyxen.hypervisor.dom0_interface import HypercallError, ShutdownReason
from pyxen.hypervisor.event_channel_delivery import ANY_PORT
from pyxen.hypervisor.event_channel_ports import MAX_BUSY, FreePorts
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.event_guest import EventGuest
from tests.unit.hypervisor.machine import SmallDomain

NOBODY = 0x7000


@pytest.fixture
def guest(machine: Hypervisor) -> EventGuest:
    return EventGuest(SmallDomain(machine, vcpus=2))


@pytest.fixture
def other(machine: Hypervisor) -> EventGuest:
    return EventGuest(SmallDomain(machine, vcpus=2))


@pytest.fixture
def pair(guest: EventGuest, other: EventGuest) -> Iterator[tuple[int, int]]:
    """Ports of ``guest`` and ``other`` that are bound to each other, nothing pending."""
    theirs = other.alloc_unbound(guest.domid)
    mine = guest.bind_interdomain(other.domid, theirs)
    assert guest.consume_two_level(0) == [mine]
    yield mine, theirs


def test_events_go_both_ways(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    mine, theirs = pair
    assert guest.send(mine) == 0
    assert other.consume_two_level(0) == [theirs] and not guest.upcall_pending(0)
    assert other.send(theirs) == 0
    assert guest.consume_two_level(0) == [mine]


def test_a_new_end_is_pending_at_once(guest: EventGuest, other: EventGuest) -> None:
    port = guest.bind_interdomain(other.domid, other.alloc_unbound(guest.domid))
    assert guest.is_pending(port) and not other.upcall_pending(0)


def test_a_port_is_for_the_domain_it_was_made_for(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    assert guest.bind_interdomain(other.domid, other.alloc_unbound(NOBODY)) == -errno.EINVAL
    assert guest.bind_interdomain(other.domid, other.alloc_unbound()) == -errno.EINVAL
    assert guest.bind_interdomain(other.domid, pair[1]) == -errno.EINVAL
    assert guest.bind_interdomain(other.domid, 0) == -errno.EINVAL
    assert guest.bind_interdomain(other.domid, 1 << 31) == -errno.EINVAL
    assert guest.bind_interdomain(NOBODY, 1) == -errno.ESRCH
    # None of these took a port.
    assert guest.alloc_unbound() == pair[0] + 1


def test_only_own_ports_are_made_and_asked_for(guest: EventGuest, other: EventGuest) -> None:
    assert guest.alloc_unbound(domid=other.domid) == -errno.EPERM
    assert guest.alloc_unbound(domid=NOBODY) == -errno.ESRCH
    assert guest.alloc_unbound(domid=guest.domid) == 1
    for domid, answer in ((other.domid, -errno.EPERM), (0, -errno.EPERM), (NOBODY, -errno.ESRCH)):
        assert guest.status(1, domid)[0] == answer
        assert guest.reset(domid) == answer
    assert guest.status(1, guest.domid)[0] == 0


def test_status_of_closed_and_of_no_ports(guest: EventGuest) -> None:
    assert [guest.status(port)[0] for port in (0, 1, 63, 64, 1 << 20, (1 << 32) - 1)] == [0, 0, 0, *[-errno.EINVAL] * 3]
    assert guest.status(5)[1].status == abi.EVTCHNSTAT_closed
    for _ in range(64):
        guest.alloc_unbound()
    assert guest.status(64)[1].status == abi.EVTCHNSTAT_unbound
    assert guest.status(127)[1].status == abi.EVTCHNSTAT_closed
    assert guest.status(128)[0] == -errno.EINVAL


def test_status_says_what_a_port_is_bound_to(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    status = guest.status(pair[0])[1]
    assert (status.status, status.u.interdomain.dom, status.u.interdomain.port) == (abi.EVTCHNSTAT_interdomain, other.domid, pair[1])
    status = guest.status(guest.alloc_unbound(NOBODY))[1]
    assert (status.status, status.u.unbound.dom) == (abi.EVTCHNSTAT_unbound, NOBODY)
    status = guest.status(guest.alloc_unbound())[1]
    assert (status.status, status.u.unbound.dom) == (abi.EVTCHNSTAT_unbound, guest.domid)
    status = guest.status(guest.bind_virq(VIRQ_TIMER, 1))[1]
    assert (status.status, status.u.virq, status.vcpu) == (abi.EVTCHNSTAT_virq, VIRQ_TIMER, 1)
    status = guest.status(guest.bind_ipi(1))[1]
    assert (status.status, status.vcpu) == (abi.EVTCHNSTAT_ipi, 1)


def test_closing_one_end_leaves_the_other_unbound(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    mine, theirs = pair
    guest.send(mine)
    other.send(theirs)
    assert guest.close(mine) == 0
    assert not guest.is_pending(mine), "whoever gets the port next has no event of the last owner"
    assert other.is_pending(theirs)
    status = other.status(theirs)[1]
    assert (status.status, status.u.unbound.dom) == (abi.EVTCHNSTAT_unbound, guest.domid)
    assert other.send(theirs) == 0
    assert guest.bind_interdomain(other.domid, theirs) == mine
    assert guest.close(mine) == 0 and guest.close(mine) == -errno.EINVAL
    assert guest.close(0) == guest.close(1 << 20) == -errno.EINVAL


def test_a_port_bound_to_ones_own(guest: EventGuest) -> None:
    first = guest.alloc_unbound()
    second = guest.bind_interdomain(guest.domid, first)
    guest.consume_two_level(0)
    assert guest.send(first) == 0 and guest.consume_two_level(0) == [second]
    assert guest.send(second) == 0 and guest.consume_two_level(0) == [first]
    assert guest.close(first) == 0
    assert guest.status(second)[1].status == abi.EVTCHNSTAT_unbound
    assert guest.reset() == 0


def test_who_can_send(guest: EventGuest) -> None:
    assert guest.send(guest.alloc_unbound()) == 0
    assert guest.send(guest.bind_virq(VIRQ_TIMER)) == -errno.EINVAL
    assert guest.send(0) == guest.send(50) == guest.send(1 << 31) == -errno.EINVAL
    ipi = guest.bind_ipi(1)
    assert guest.send(ipi) == 0
    assert guest.consume_two_level(1) == [ipi] and not guest.upcall_pending(0)


def test_virqs(guest: EventGuest, machine: Hypervisor) -> None:
    assert guest.bind_virq(NR_VIRQS) == guest.bind_virq((1 << 32) - 1) == -errno.EINVAL
    assert guest.bind_virq(VIRQ_CON_RING, 1) == -errno.EINVAL
    assert guest.bind_virq(VIRQ_TIMER, 2) == -errno.ENOENT
    timers = [guest.bind_virq(VIRQ_TIMER, vcpu) for vcpu in range(2)]
    assert guest.bind_virq(VIRQ_TIMER, 1) == -errno.EEXIST
    with machine.lock:
        guest.channels.send_virq(guest.small.domain.vcpus[1], VIRQ_TIMER)
        guest.channels.send_virq(guest.small.domain.vcpus[1], VIRQ_DEBUG)
    assert guest.consume_two_level(1) == [timers[1]] and not guest.upcall_pending(0)
    assert guest.close(timers[1]) == 0
    assert guest.bind_virq(VIRQ_TIMER, 1) == timers[1]


def test_a_global_virq_belongs_to_vcpu_0_and_notifies_any(guest: EventGuest, machine: Hypervisor) -> None:
    port = guest.bind_virq(VIRQ_CON_RING)
    assert guest.bind_vcpu(port, 1) == 0
    with machine.lock:
        guest.channels.send_virq(guest.small.vcpu, VIRQ_CON_RING)
    assert guest.consume_two_level(1) == [port]
    assert guest.bind_virq(VIRQ_CON_RING) == -errno.EEXIST
    assert guest.close(port) == 0
    with machine.lock:
        guest.channels.send_virq(guest.small.vcpu, VIRQ_CON_RING)
    assert guest.bind_virq(VIRQ_CON_RING) == port


def test_debug_key_q_asks_guests_for_their_state(guest: EventGuest, machine: Hypervisor) -> None:
    ports = [guest.bind_virq(VIRQ_DEBUG, vcpu) for vcpu in range(2)]
    machine.dom0.debug_keys("q")
    assert all(guest.upcall_pending(vcpu) and guest.is_pending(ports[vcpu]) for vcpu in range(2))


def test_debug_key_e_shows_every_port(guest: EventGuest, other: EventGuest, machine: Hypervisor, pair: tuple[int, int]) -> None:
    other.start_fifo()
    guest.send(pair[0])
    machine.dom0.read_console_ring(clear=True)
    machine.dom0.debug_keys("e")
    log = machine.dom0.read_console_ring()
    assert f"{pair[0]} [0/0/2-level]: s=2 n=0 d={other.domid} p={pair[1]}" in log
    assert f"{pair[1]} [1/1/FIFO, priority 7, not linked]: s=2 n=0 d={guest.domid} p={pair[0]}" in log


def test_which_ports_may_move_to_another_vcpu(guest: EventGuest, pair: tuple[int, int]) -> None:
    assert guest.bind_vcpu(guest.bind_ipi(0), 1) == -errno.EINVAL
    assert guest.bind_vcpu(guest.bind_virq(VIRQ_TIMER), 1) == -errno.EINVAL
    assert guest.bind_vcpu(pair[0], 2) == -errno.ENOENT
    assert guest.bind_vcpu(60, 1) == guest.bind_vcpu(1 << 20, 1) == -errno.EINVAL
    assert guest.bind_vcpu(guest.alloc_unbound(), 1) == 0
    assert guest.bind_vcpu(pair[0], 1) == 0
    assert guest.status(pair[0])[1].vcpu == 1


def test_events_go_to_the_vcpu_that_a_port_was_bound_to(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    guest.bind_vcpu(pair[0], 1)
    other.send(pair[1])
    assert guest.consume_two_level(1) == [pair[0]] and not guest.upcall_pending(0)


def test_pirqs_are_for_domains_with_hardware(guest: EventGuest) -> None:
    assert guest.bind_pirq(5) == -errno.EPERM
    assert guest.bind_pirq(5000) == guest.bind_pirq((1 << 32) - 1) == -errno.EINVAL


def test_masks(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    mine, theirs = pair
    guest.mask(mine)
    other.send(theirs)
    assert guest.is_pending(mine) and not guest.upcall_pending(0)
    assert guest.unmask(mine) == 0
    assert guest.consume_two_level(0) == [mine]
    assert guest.unmask(mine) == 0 and not guest.upcall_pending(0)
    assert guest.unmask(63) == 0, "of a closed port: nothing"
    assert guest.unmask(1 << 20) == -errno.EINVAL


def test_a_second_event_tells_nobody_again(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    mine, theirs = pair
    for _ in range(3):
        other.send(theirs)
    assert guest.consume_two_level(0) == [mine]
    assert guest.consume_two_level(0) == []


def test_unknown_operation_and_bad_pointer(guest: EventGuest) -> None:
    assert guest.op(77, abi.evtchn_send(port=1))[0] == -errno.ENOSYS
    for command in range(abi.EVTCHNOP_set_priority + 1):
        assert guest.small.call(32, command, 0xFFFF_8000_0000_0000) == -errno.EFAULT


# -- limits --------------------------------------------------------------------------------------------------------------------


def test_limit_of_a_domain(machine: Hypervisor) -> None:
    guest = EventGuest(SmallDomain(machine, max_evtchn_port=10))
    assert [guest.alloc_unbound() for _ in range(11)] == [*range(1, 11), -errno.ENOSPC]
    assert guest.bind_ipi() == guest.bind_virq(VIRQ_TIMER) == -errno.ENOSPC
    assert guest.bind_interdomain(guest.domid, 77) == -errno.ENOSPC
    guest.close(7)
    guest.close(3)
    assert [guest.alloc_unbound() for _ in range(3)] == [3, 7, -errno.ENOSPC]


def test_limits_of_the_abis(machine: Hypervisor) -> None:
    guest = EventGuest(SmallDomain(machine, max_evtchn_port=5000))
    with machine.lock:
        for _ in range(4095):
            guest.channels.alloc_unbound(0)
    assert guest.alloc_unbound() == -errno.ENOSPC
    assert guest.init_control() == 0
    with machine.lock:
        for _ in range(4096, 5001):
            guest.channels.alloc_unbound(0)
    assert guest.alloc_unbound() == -errno.ENOSPC
    assert guest.reset() == 0
    with machine.lock:
        assert [guest.channels.alloc_unbound(0) for _ in range(4095)] == [*range(1, 4096)]
    assert guest.alloc_unbound() == -errno.ENOSPC


def test_reset_of_many_ports_gives_way(machine: Hypervisor) -> None:
    guest = EventGuest(SmallDomain(machine, max_evtchn_port=2000))
    with machine.lock:
        for _ in range(2000):
            guest.channels.alloc_unbound(0)
        assert not guest.channels.reset()
        assert 0 < len(guest.channels.ports()) < 2000
    assert guest.reset() == 0
    assert not guest.channels.ports()


def test_ports_are_found_without_a_search() -> None:
    """However many closed ports a guest keeps busy, one allocation asks after a bounded number of them."""
    asked = 0

    def is_busy(port: int) -> bool:
        nonlocal asked
        asked += 1
        return port <= 1000

    free = FreePorts()
    for _ in range(2000):
        assert free.take(100_000, lambda port: False)
    for port in range(1, 1001):
        free.give_back(port)
    found = []
    while not found or found[-1] is None:
        asked = 0
        found.append(free.take(100_000, is_busy))
        assert asked <= 2 * MAX_BUSY
    assert found[-1] == 2001
    free.release_busy()
    assert [free.take(100_000, lambda port: False) for _ in range(3)] == [1, 2, 3]


# -- ends that go away -------------------------------------------------------------------------------------------------------------


def test_reset_closes_all_and_the_peers_become_unbound(guest: EventGuest, other: EventGuest, pair: tuple[int, int]) -> None:
    guest.bind_virq(VIRQ_TIMER)
    guest.bind_ipi(1)
    guest.alloc_unbound()
    assert guest.reset() == 0
    assert not guest.channels.ports()
    status = other.status(pair[1])[1]
    assert (status.status, status.u.unbound.dom) == (abi.EVTCHNSTAT_unbound, guest.domid)
    assert other.send(pair[1]) == 0
    assert not guest.upcall_pending(0)
    assert guest.bind_virq(VIRQ_TIMER) == 1


def test_death_of_one_end(guest: EventGuest, other: EventGuest, machine: Hypervisor, pair: tuple[int, int]) -> None:
    other.start_fifo()
    other.send(pair[1])
    other.small.destroy()
    status = guest.status(pair[0])[1]
    assert (status.status, status.u.unbound.dom) == (abi.EVTCHNSTAT_unbound, other.domid)
    assert guest.send(pair[0]) == 0
    assert guest.bind_interdomain(other.domid, pair[1]) == -errno.ESRCH
    assert guest.close(pair[0]) == 0
    invariants.check(machine)


def test_a_domain_that_can_not_die_yet_has_no_ports(
    guest: EventGuest, other: EventGuest, machine: Hypervisor, pair: tuple[int, int]
) -> None:
    """Domain 0 still maps a frame of it: it is dying until that ends."""
    other.start_fifo()
    dom0, mfn = machine.dom0, other.small.mfns[20]
    seen: list[int] = []
    local = dom0.bind_interdomain(other.domid, other.alloc_unbound(0), lambda: seen.append(1))
    page = dom0.map_foreign(other.domid, mfn)
    other.small.destroy()
    assert dom0.domain_info(other.domid).dying
    assert not other.channels.ports()
    dom0.notify(local)
    assert guest.send(pair[0]) == 0
    with pytest.raises(HypercallError) as refused:
        dom0.evtchn_alloc_unbound(other.domid, 0)
    assert refused.value.errno == errno.EINVAL
    dom0.close_port(local)
    page.release()
    dom0.unmap_foreign(other.domid, mfn)
    assert seen == [1], "the one event of binding"
    assert [info.domid for info in dom0.list_domains()] == [0, guest.domid]


def test_events_to_a_domain_that_is_shut_down_wait_for_it(guest: EventGuest, other: EventGuest, machine: Hypervisor) -> None:
    port = other.alloc_unbound(guest.domid)
    local = guest.bind_interdomain(other.domid, port)
    machine.dom0.shutdown_domain(other.domid, ShutdownReason.SUSPEND)
    assert guest.send(local) == 0
    assert other.is_pending(port)


# -- Domain 0 and sleepers -----------------------------------------------------------------------------------------------------------


def test_domain0_has_handlers(guest: EventGuest, machine: Hypervisor) -> None:
    seen: list[int] = []
    port = guest.alloc_unbound(0)
    local = machine.dom0.bind_interdomain(guest.domid, port, lambda: seen.append(port))
    assert seen == [port]
    guest.send(port)
    assert seen == [port, port]
    machine.dom0.notify(local)
    assert guest.consume_two_level(0) == [port]
    machine.dom0.close_port(local)
    assert guest.send(port) == 0 and len(seen) == 2
    with pytest.raises(HypercallError):
        machine.dom0.notify(local)


def test_a_handler_that_fails_is_not_the_senders_fault(guest: EventGuest, machine: Hypervisor) -> None:
    port = guest.alloc_unbound(0)
    machine.dom0.bind_interdomain(guest.domid, port, lambda: [][0])
    assert guest.send(port) == 0
    assert "IndexError" in machine.dom0.read_console_ring()
    assert not machine.dom0.domain_info(guest.domid).shutdown


def test_a_poller_wakes_for_its_port_only(guest: EventGuest, other: EventGuest, machine: Hypervisor, pair: tuple[int, int]) -> None:
    vcpu, ipi = guest.small.domain.vcpus[1], guest.bind_ipi(0)
    guest.mask(pair[0])
    with machine.lock:
        vcpu.polled_port = pair[0]
        vcpu.block()
    guest.send(ipi)
    assert vcpu.blocked
    other.send(pair[1])
    assert not vcpu.blocked and vcpu.polled_port is None


def test_a_poller_of_several_ports_or_none_wakes_for_any(guest: EventGuest, machine: Hypervisor) -> None:
    """As on Xen (poll_evtchn is -1 then): also for a port that it did not name, masked or not."""
    vcpu, ipi = guest.small.domain.vcpus[1], guest.bind_ipi(0)
    guest.mask(ipi)
    with machine.lock:
        vcpu.polled_port = ANY_PORT
        vcpu.block()
    guest.send(ipi)
    assert not vcpu.blocked and vcpu.polled_port is None


def test_a_sleeper_wakes_although_its_upcalls_are_masked(guest: EventGuest, machine: Hypervisor) -> None:
    vcpu, ipi = guest.small.domain.vcpus[1], guest.bind_ipi(1)
    with machine.lock:
        vcpu.events_masked = True
        vcpu.polled_port = 900
        vcpu.block()
    guest.send(ipi)
    assert not vcpu.blocked
