"""The FIFO ABI: what may be registered, queues, priorities, and guests that consume or misbehave between two steps of the hypervisor."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from pyxen.abi import event_channel as abi
from pyxen.hypervisor.frame_table import SEGMENT_DESCRIPTORS
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.event_guest import ARRAY_PFN, BUSY, CONTROL_PFN, LINKED, MASKED, PENDING, EventGuest
from tests.unit.hypervisor.machine import SmallDomain

#: A control block of 72 octets ends with its page here.
LAST_OFFSET = 4096 - 72
LINK = abi.EVTCHN_FIFO_LINK_MASK


@pytest.fixture
def guest(machine: Hypervisor) -> EventGuest:
    return EventGuest(SmallDomain(machine, vcpus=2))


@pytest.fixture
def fifo(guest: EventGuest) -> EventGuest:
    """Everything registered, nothing masked."""
    guest.start_fifo(word=0)
    return guest


def during_replacement(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], times: int = 1) -> None:
    """Have the guest do ``action`` right before the hypervisor's next replacements of an event word."""
    replace = machine.engine.compare_exchange32
    left = times

    def racing(address: int, expected: int, new: int) -> int:
        nonlocal left
        if left:
            left -= 1
            action()
        return replace(address, expected, new)

    monkeypatch.setattr(machine.engine, "compare_exchange32", racing)


# -- registration ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [4, 1, LAST_OFFSET + 8, LAST_OFFSET + 1, 4096, (1 << 32) - 8])
def test_offsets_of_control_blocks_that_are_refused(guest: EventGuest, offset: int) -> None:
    assert guest.init_control(offset=offset) == -errno.EINVAL
    assert guest.expand_array() == -errno.EOPNOTSUPP, "it is still the 2-level ABI"


def test_control_blocks(guest: EventGuest) -> None:
    mfn = guest.small.mfns[CONTROL_PFN]
    before = guest.small.count(mfn)
    assert guest.init_control(2) == -errno.ENOENT
    assert guest.init_control(0, mfn=mfn, offset=LAST_OFFSET) == 0
    assert guest.init_control(0) == -errno.EINVAL, "once per vCPU"
    assert guest.init_control(1, mfn=mfn, offset=80) == 0, "two may share a page"
    assert guest.small.count(mfn) == tuple(count + 2 for count in before)
    assert guest.reset() == 0
    assert guest.small.count(mfn) == before
    assert guest.init_control(0) == 0, "and again after a reset"


def test_frames_that_are_refused(guest: EventGuest, machine: Hypervisor) -> None:
    other = SmallDomain(machine)
    descriptors = guest.small.free_page()
    with machine.lock:
        machine.frames.get_page_and_type(descriptors, guest.domid, SEGMENT_DESCRIPTORS)
    bad = [guest.small.l1, guest.small.l4, descriptors, other.mfns[0], 0, 1 << 52, (1 << 64) - 1, machine.memory.total_frames]
    for mfn in bad:
        assert guest.init_control(mfn=mfn) == -errno.EINVAL
    assert guest.expand_array(mfn=guest.small.mfns[3]) == -errno.EOPNOTSUPP
    assert guest.init_control() == 0
    for mfn in bad:
        assert guest.expand_array(mfn=mfn) == -errno.EINVAL
    assert guest.expand_array() == 0
    with machine.lock:
        machine.frames.put_page_and_type(descriptors)


def test_an_event_page_can_not_become_a_table(fifo: EventGuest) -> None:
    """Nor can it be given back: it stays the domain's until the last reference goes."""
    small = fifo.small
    mfn = small.free_page()
    assert fifo.expand_array(mfn) == 0
    with small.hypervisor.lock, pytest.raises(Exception, match="in use as writable"):
        small.frames.get_page_and_type(mfn, small.domid, SEGMENT_DESCRIPTORS)
    count = small.count(mfn)
    with small.hypervisor.lock:
        small.domain.release_frame(mfn)
    assert small.count(mfn) == (count[0] - 1, count[1])
    assert small.hypervisor.memory.owner[mfn] == small.domid
    assert fifo.reset() == 0
    assert small.hypervisor.memory.owner[mfn] != small.domid


def test_the_array_has_128_pages(machine: Hypervisor) -> None:
    guest = EventGuest(SmallDomain(machine, pages=160))
    guest.init_control()
    for number in range(128):
        assert guest.expand_array(guest.small.mfns[ARRAY_PFN + number % 100]) == 0
    assert guest.expand_array(guest.small.mfns[ARRAY_PFN]) == -errno.ENOSPC
    invariants.check(machine)


def test_pages_are_given_back_when_the_domain_dies(machine: Hypervisor) -> None:
    free = machine.memory.free_frames
    guest = EventGuest(SmallDomain(machine, vcpus=2))
    guest.start_fifo()
    guest.small.destroy()
    assert machine.memory.free_frames == free
    invariants.check(machine)


# -- priorities and order --------------------------------------------------------------------------------------------------------------


def test_events_of_a_queue_come_in_the_order_they_were_sent(fifo: EventGuest) -> None:
    ports = [fifo.bind_ipi() for _ in range(5)]
    order = [ports[index] for index in (3, 0, 4, 1, 2)]
    for port in order:
        fifo.send(port)
    fifo.send(order[0])
    assert fifo.consume_fifo(0) == [(7, port) for port in order]
    assert fifo.consume_fifo(0) == []


def test_higher_priorities_come_first(fifo: EventGuest) -> None:
    ports = {priority: fifo.bind_ipi() for priority in (15, 9, 0, 3)}
    default = fifo.bind_ipi()
    for priority, port in ports.items():
        assert fifo.set_priority(port, priority) == 0
    for port in (*ports.values(), default):
        fifo.send(port)
    assert fifo.consume_fifo(0) == [(0, ports[0]), (3, ports[3]), (7, default), (9, ports[9]), (15, ports[15])]


def test_refusals_of_priorities(guest: EventGuest) -> None:
    port = guest.bind_ipi()
    assert guest.set_priority(port, 3) == -errno.ENOSYS, "in the 2-level ABI"
    guest.start_fifo()
    assert guest.set_priority(port, 16) == guest.set_priority(port, (1 << 32) - 1) == -errno.EINVAL
    assert guest.set_priority(port + 1, 3) == -errno.EACCES, "a closed port"
    assert guest.set_priority(64, 3) == -errno.EINVAL, "no port"
    assert guest.set_priority(port, 15) == 0


def test_a_new_owner_of_a_port_has_the_default_priority(fifo: EventGuest) -> None:
    port = fifo.bind_ipi()
    fifo.set_priority(port, 2)
    fifo.close(port)
    assert fifo.bind_ipi() == port
    fifo.send(port)
    assert fifo.consume_fifo(0) == [(7, port)]


def test_a_queued_event_stays_where_it_is_when_its_port_moves(fifo: EventGuest) -> None:
    port = fifo.alloc_unbound()
    other = fifo.bind_interdomain(fifo.domid, port)
    fifo.consume_fifo(0)
    fifo.send(other)
    fifo.bind_vcpu(port, 1)
    fifo.set_priority(port, 1)
    fifo.send(other)
    assert fifo.consume_fifo(1) == []
    assert fifo.consume_fifo(0) == [(7, port)]
    fifo.send(other)
    assert fifo.consume_fifo(0) == []
    assert fifo.consume_fifo(1) == [(1, port)]


def test_the_old_queue_does_not_grow_through_a_port_that_moved(fifo: EventGuest) -> None:
    """The port is still the old queue's tail, consumed, and now linked elsewhere: the old queue's next event must not hang on it."""
    moving, staying = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(moving)
    assert fifo.consume_fifo(0) == [(7, moving)]
    fifo.set_priority(moving, 4)
    fifo.send(moving)
    fifo.send(staying)
    assert not fifo.word(moving) & LINK
    assert fifo.consume_fifo(0) == [(4, moving), (7, staying)]


def test_a_port_that_moves_twice_leaves_both_queues(fifo: EventGuest) -> None:
    """The queue that a port was appended to last is the one to look at, not the first one it was ever on."""
    moving, staying = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.set_priority(staying, 4)
    for priority in (7, 4):
        fifo.set_priority(moving, priority)
        fifo.send(moving)
        assert fifo.consume_fifo(0) == [(priority, moving)]
    fifo.set_priority(moving, 9)
    fifo.send(moving)
    fifo.send(staying)
    assert not fifo.word(moving) & LINK
    assert fifo.consume_fifo(0) == [(4, staying), (9, moving)]


def test_a_pending_event_keeps_its_queue_whatever_becomes_of_its_port(fifo: EventGuest) -> None:
    """Sent again after its priority has changed, it is delivered once, where it was queued; events behind it stay behind it."""
    first, second = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(first)
    fifo.send(second)
    fifo.set_priority(first, 0)
    fifo.send(first)
    assert fifo.word(first) == PENDING | LINKED | second
    assert fifo.consume_fifo(0) == [(7, first), (7, second)]


def test_the_same_through_a_close(fifo: EventGuest) -> None:
    moving, staying = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(moving)
    fifo.consume_fifo(0)
    fifo.close(moving)
    assert fifo.bind_ipi(1) == moving
    fifo.send(moving)
    fifo.send(staying)
    assert fifo.consume_fifo(0) == [(7, staying)]
    assert fifo.consume_fifo(1) == [(7, moving)]


# -- masks and early events --------------------------------------------------------------------------------------------------------------


def test_masked_events_are_pending_and_not_queued(fifo: EventGuest) -> None:
    port = fifo.bind_ipi()
    fifo.mask(port)
    fifo.send(port)
    assert fifo.word(port) == PENDING | MASKED and not fifo.upcall_pending(0)
    assert fifo.unmask(port) == 0
    assert fifo.word(port) == PENDING | LINKED
    assert fifo.consume_fifo(0) == [(7, port)]
    assert fifo.unmask(port) == 0 and not fifo.upcall_pending(0)


def test_an_event_masked_while_it_is_queued_comes_when_it_is_unmasked(fifo: EventGuest) -> None:
    port = fifo.bind_ipi()
    fifo.send(port)
    fifo.mask(port)
    assert fifo.consume_fifo(0) == []
    assert fifo.word(port) == PENDING | MASKED
    fifo.unmask(port)
    assert fifo.consume_fifo(0) == [(7, port)]


def test_no_upcall_for_a_queue_that_was_announced(fifo: EventGuest) -> None:
    first, second = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(first)
    fifo.octets[fifo.small.vcpu.info] = 0
    fifo.send(second)
    assert not fifo.upcall_pending(0)


def test_events_before_their_words_are_delivered_later(guest: EventGuest) -> None:
    port, closed = guest.bind_ipi(), guest.bind_ipi()
    assert guest.init_control() == 0
    guest.send(port)
    guest.send(closed)
    guest.close(closed)
    assert guest.bind_ipi() == closed
    assert guest.unmask(port) == 0
    assert not guest.upcall_pending(0)
    guest.expand_array(word=0)
    assert guest.consume_fifo(0) == [(7, port)]


def test_ports_of_later_pages(machine: Hypervisor) -> None:
    guest = EventGuest(SmallDomain(machine, max_evtchn_port=3000))
    guest.start_fifo(word=0)
    with machine.lock:
        for _ in range(2050):
            guest.channels.alloc_unbound(0)
    port = guest.bind_ipi()
    assert port == 2051
    guest.send(port)
    guest.expand_array(word=0)
    assert not guest.upcall_pending(0)
    guest.expand_array(word=0)
    assert guest.consume_fifo(0) == [(7, port)]


def test_pending_events_are_carried_over(guest: EventGuest) -> None:
    pending, masked, quiet = (guest.bind_ipi() for _ in range(3))
    guest.mask(masked)
    guest.send(pending)
    guest.send(masked)
    info = guest.small.vcpu.info
    guest.octets[info : info + 16] = bytes(16)  # the guest forgets the 2-level ABI's announcement
    guest.start_fifo()
    assert [guest.word(port) for port in (pending, masked, quiet)] == [PENDING | MASKED, PENDING | MASKED, MASKED]
    for port in (masked, pending, quiet):
        guest.unmask(port)
    assert guest.consume_fifo(0) == [(7, masked), (7, pending)]
    guest.reset()
    assert [guest.bind_ipi() for _ in range(3)] == [pending, masked, quiet]
    assert not any(guest.is_pending(port) for port in (pending, masked, quiet))
    guest.send(quiet)
    assert guest.consume_two_level(0) == [quiet]


def test_a_vcpu_without_control_block_gets_no_events(guest: EventGuest, machine: Hypervisor) -> None:
    guest.init_control(0)
    guest.expand_array(word=0)
    port = guest.bind_ipi(1)
    assert guest.send(port) == 0
    assert guest.word(port) == PENDING and not guest.upcall_pending(1)
    assert "no control block" in machine.dom0.read_console_ring()
    guest.init_control(1)
    guest.unmask(port)
    assert guest.consume_fifo(1) == [(7, port)]


def test_a_poller_wakes_for_a_masked_fifo_event(fifo: EventGuest, machine: Hypervisor) -> None:
    vcpu, port = fifo.small.domain.vcpus[1], fifo.bind_ipi(0)
    fifo.mask(port)
    with machine.lock:
        vcpu.polled_port = port
        vcpu.block()
    fifo.send(port)
    assert not vcpu.blocked


# -- closed ports ------------------------------------------------------------------------------------------------------------------------


def test_a_closed_port_is_not_given_anew_while_it_is_queued(fifo: EventGuest) -> None:
    port = fifo.bind_ipi()
    fifo.send(port)
    fifo.close(port)
    assert fifo.word(port) == LINKED
    other = fifo.bind_ipi()
    assert other != port
    fifo.send(other)
    assert fifo.consume_fifo(0) == [(7, other)]
    assert fifo.bind_ipi() == port


def test_a_guest_that_marks_all_ports_linked_gets_none_until_a_reset(fifo: EventGuest) -> None:
    for port in range(1024):
        fifo.doublewords[fifo.word_index(port)] = LINKED
    for _ in range(20):
        assert fifo.bind_ipi() == -errno.ENOSPC
    assert fifo.reset() == 0
    assert fifo.bind_ipi() == 1


# -- guests that change words meanwhile ----------------------------------------------------------------------------------------------------


def test_the_tail_is_consumed_while_an_event_is_appended(fifo: EventGuest, machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(first)
    handled: list[tuple[int, int]] = []
    during_replacement(machine, monkeypatch, lambda: handled.extend(fifo.consume_fifo(0)))
    fifo.send(second)
    assert handled == [(7, first)]
    assert fifo.word(first) == 0, "BUSY is not left behind"
    assert fifo.upcall_pending(0)
    assert fifo.consume_fifo(0) == [(7, second)]


@pytest.mark.parametrize("change", [MASKED, PENDING, MASKED | PENDING])
def test_the_tail_is_masked_or_handled_while_an_event_is_appended(
    fifo: EventGuest, machine: Hypervisor, monkeypatch: pytest.MonkeyPatch, change: int
) -> None:
    first, second = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(first)
    index = fifo.word_index(first)

    def act() -> None:
        fifo.doublewords[index] ^= change

    during_replacement(machine, monkeypatch, act)
    fifo.send(second)
    assert fifo.word(first) == (PENDING ^ change) | LINKED | second
    assert [port for _, port in fifo.consume_fifo(0)][-1] == second


def test_the_tail_is_busy_while_the_hypervisor_tries_again(fifo: EventGuest, machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = fifo.bind_ipi(), fifo.bind_ipi()
    fifo.send(first)
    index, seen = fifo.word_index(first), []

    def act() -> None:
        seen.append(bool(fifo.doublewords[index] & BUSY))
        fifo.doublewords[index] ^= MASKED

    during_replacement(machine, monkeypatch, act, times=3)
    fifo.send(second)
    assert seen == [False, True, True]
    assert fifo.word(first) & LINK == second and not fifo.word(first) & BUSY


def test_a_guest_that_never_stops_changing_a_word_loses_its_event(
    fifo: EventGuest, machine: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = (fifo.bind_ipi() for _ in range(3))
    fifo.send(first)
    index, times = fifo.word_index(first), 0

    def act() -> None:
        nonlocal times
        times += 1
        fifo.doublewords[index] ^= MASKED

    during_replacement(machine, monkeypatch, act, times=10**9)
    assert fifo.send(second) == 0
    monkeypatch.undo()
    assert times == 5, "attempts are bounded"
    assert not fifo.word(first) & BUSY
    assert f"port {second} is lost" in machine.dom0.read_console_ring()
    assert fifo.send(third) == 0
    invariants.check(machine)


def test_whatever_the_guest_writes_is_never_followed(fifo: EventGuest, machine: Hypervisor) -> None:
    """All ones in words and control blocks: links and heads that point outside the array."""
    ports = [fifo.bind_ipi(vcpu) for vcpu in (0, 1, 0, 1)]
    for port in ports:
        fifo.send(port)
    for pfn in (CONTROL_PFN, CONTROL_PFN + 1, ARRAY_PFN):
        for filler in (b"\xff", b"\x00", b"\x9f"):
            mfn = fifo.small.mfns[pfn]
            fifo.octets[mfn << 12 : mfn + 1 << 12] = filler * 4096
            for port in ports:
                assert fifo.send(port) == fifo.unmask(port) == 0
    # The same page as words and as both control blocks.
    fifo.reset()
    mfn = fifo.small.mfns[CONTROL_PFN]
    fifo.octets[mfn << 12 : mfn + 1 << 12] = bytes(4096)
    assert [fifo.init_control(0, mfn=mfn), fifo.init_control(1, mfn=mfn), fifo.expand_array(mfn)] == [0, 0, 0]
    for _ in range(40):
        port = fifo.bind_ipi(1)
        if port > 0:
            fifo.send(port)
    invariants.check(machine)
    assert not machine.dom0.domain_info(fifo.domid).shutdown
