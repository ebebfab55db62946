"""Floods: whatever a guest does again and again, the host's memory does not grow with it, its log stays within its rate, and Domain 0 is
asked no more often than it can answer. Everything is counted, nothing is timed.
"""

from __future__ import annotations

import gc
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from pyxen.abi import event_channel, memory, physdev, sched, vcpu, xen
from pyxen.abi.hvm import hvm_op
from pyxen.hypervisor import console_ring
from pyxen.hypervisor.hvm import local_apic, msr
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GrantGuest
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import SmallDomain, new_machine

SELF = 0x7FF0
ROUNDS = 800
#: What a flood may cost for good, in octets for all its rounds: less than one object for each.
ALLOWED = 16 * ROUNDS

Flood = Callable[[int], object]


@pytest.fixture
def machine() -> Hypervisor:  # type: ignore[misc]
    hypervisor = new_machine()
    yield hypervisor
    hypervisor.close()


def growth(flood: Flood) -> int:
    """Octets that Python has allocated more after the second round of floods than after the first: caches have their size then."""
    for number in range(ROUNDS):
        flood(number)
    tracemalloc.start()
    try:
        flood(0)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for number in range(ROUNDS, 2 * ROUNDS):
            flood(number)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def pv_floods(guest: GrantGuest, other: GrantGuest) -> dict[str, Flood]:
    call, put = guest.call, guest.put
    port = guest.domain.event_channels.alloc_unbound(0)
    to_self = guest.domain.event_channels.bind_ipi(0)
    other.grant(9, guest.domid)

    def event(command: int, form: str, *values: int) -> int:
        return call(xen.HYPERVISOR_event_channel_op, command, put(form, *values))

    def ports(number: int) -> None:
        event(event_channel.EVTCHNOP_alloc_unbound, "HHI", SELF, number % 3, 0)
        event(event_channel.EVTCHNOP_reset, "H", SELF)

    def map_and_unmap(number: int) -> None:
        operation = guest.map(other.domid, 9)
        assert not operation.status
        assert not guest.unmap(operation.handle)

    def reservation(number: int) -> None:
        argument = put("QQIIHxxxxxxQ", guest.at(0, 32), 1, 0, 0, SELF, number)
        assert call(xen.HYPERVISOR_memory_op, memory.XENMEM_populate_physmap, argument) == 1
        assert call(xen.HYPERVISOR_memory_op, memory.XENMEM_decrease_reservation, argument) == 1

    def pins(number: int) -> None:
        table = guest.mfns[guest.usable]
        for command in (xen.MMUEXT_PIN_L1_TABLE, xen.MMUEXT_UNPIN_TABLE):
            assert not call(xen.HYPERVISOR_mmuext_op, put("IIQQ", command, 0, table, 0), 1, 0, SELF)

    return {
        "events to Domain 0": lambda number: event(event_channel.EVTCHNOP_send, "I", port),
        "events to itself": lambda number: event(event_channel.EVTCHNOP_send, "I", to_self),
        "timers": lambda number: call(xen.HYPERVISOR_set_timer_op, (1 << 61) - number),
        "periodic timers": lambda number: call(xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_set_periodic_timer, 0, put("Q", (1 << 40) + number)),
        "polls": lambda number: call(
            xen.HYPERVISOR_sched_op, sched.SCHEDOP_poll, put("QIIQQ", guest.at(0, 24), 1, 0, (1 << 60) + number, port)
        ),
        "watchdogs": lambda number: call(xen.HYPERVISOR_sched_op, sched.SCHEDOP_watchdog, put("II", number % 2 + 1 if number else 0, 1000)),
        "console lines": lambda number: call(xen.HYPERVISOR_console_io, 0, 40, guest.write(guest.at(0), b"line %d\n" % number * 6)),
        "a console line without an end": lambda number: call(xen.HYPERVISOR_console_io, 0, 400, guest.write(guest.at(0), b"x" * 400)),
        "hypercalls that are not there": lambda number: call(1000 + 17 * number),
        "sub-commands that are not there": lambda number: call(xen.HYPERVISOR_physdev_op, 1000 + number, guest.at(0)),
        "ports": ports,
        "memory": reservation,
        "pins": pins,
        "grants": map_and_unmap,
        "versions of the grant table": lambda number: guest.set_version(1 + number % 2),
        "I/O bitmaps": lambda number: call(
            xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iobitmap, put("QI", guest.at(number % 40), 65536)
        ),
        "runstate areas": lambda number: call(
            xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_register_runstate_memory_area, 0, put("Q", guest.at(2, number % 512 * 8))
        ),
        "lines that tell why it was refused": lambda number: call(xen.HYPERVISOR_mmu_update, put("QQ", 1 << 12, number), 1, 0, SELF),
    }


@pytest.mark.timeout(300)
def test_a_pv_guest_does_not_make_the_host_grow(machine: Hypervisor) -> None:
    guest, other = GrantGuest(machine, pages=64), GrantGuest(machine)
    guest.free_page()
    for name, flood in pv_floods(guest, other).items():
        assert growth(flood) < ALLOWED, name
    invariants.check(machine)


def pvh_floods(guest: SmallHvmDomain) -> dict[str, Flood]:
    call, put = guest.call, guest.put
    apic = guest.vcpu.local_apic

    def physical_map(number: int) -> None:
        argument = put("HHIQQ", SELF, 0, memory.XENMAPSPACE_gmfn, 20 if number % 2 else 0x50000, 0x50000 if number % 2 else 20)
        call(xen.HYPERVISOR_memory_op, memory.XENMEM_add_to_physmap, argument)

    def far_frames(number: int) -> None:
        gfn = (1 << 20) + number % 56 * 0x3FFFF
        assert not call(
            xen.HYPERVISOR_memory_op, memory.XENMEM_add_to_physmap, put("HHIQQ", SELF, 0, memory.XENMAPSPACE_shared_info, 0, gfn)
        )

    def timers(number: int) -> None:
        with guest.hypervisor.lock:
            apic.write(local_apic.TIMER_INITIAL, 0xFFFFFF00 + number % 256)
            apic.write(local_apic.TIMER_DIVIDE, number % 16)

    def registers(number: int) -> None:
        with guest.hypervisor.lock:
            for register in (number, 0x200 + number % 16, 0x800 + number % 64, 0xC0000000 + number):
                msr.write(guest.vcpu, register, number)
            apic.write(number % 256 << 4, number)

    return {
        "places in physical memory": physical_map,
        "far places": far_frames,
        "timers of the local APIC": timers,
        "registers": registers,
        "parameters": lambda number: call(xen.HYPERVISOR_hvm_op, hvm_op.HVMOP_set_param, put("HHIQ", SELF, 0, number % 60, number)),
        "commands that are not there": lambda number: call(xen.HYPERVISOR_hvm_op, 1000 + number, 0),
    }


@pytest.mark.timeout(300)
def test_a_pvh_guest_does_not_make_the_host_grow(machine: Hypervisor) -> None:
    guest = SmallHvmDomain(machine)
    for name, flood in pvh_floods(guest).items():
        assert growth(flood) < ALLOWED, name
    invariants.check(machine)


def test_the_log_of_a_guest_that_is_refused_without_end(machine: Hypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal is a line; a burst of them is let through, and then so many a second. Lines of another domain and of the hypervisor are
    not lost for it."""
    now = [1000.0]
    monkeypatch.setattr(console_ring.time, "monotonic", lambda: now[0])
    guest, other = SmallDomain(machine), SmallDomain(machine)
    machine.dom0.read_console_ring(clear=True)

    def refused() -> None:
        guest.call(xen.HYPERVISOR_console_io, 0, 8, guest.write(guest.at(0), b"a line.\n"))

    for _ in range(20 * console_ring.GUEST_BURST):
        refused()
    machine.log("the hypervisor's own")
    other.call(xen.HYPERVISOR_console_io, 0, 8, other.write(other.at(0), b"another\n"))
    text = machine.dom0.read_console_ring(clear=True)
    assert text.count("a line.") == console_ring.GUEST_BURST
    assert "the hypervisor's own" in text and f"d{other.domid}: another" in text
    now[0] += 3
    for _ in range(console_ring.GUEST_BURST):
        refused()
    text = machine.dom0.read_console_ring()
    assert text.count("a line.") == 3 * console_ring.GUEST_LINES_PER_SECOND
    assert f"{19 * console_ring.GUEST_BURST} messages suppressed" in text


def test_a_death_costs_one_burst_at_most(machine: Hypervisor) -> None:
    """What is kept for the rate of a domain's messages goes with it."""
    before = len(machine.console._allowance)
    for _ in range(20):
        guest = SmallDomain(machine)
        guest.call(xen.HYPERVISOR_console_io, 0, 8, guest.write(guest.at(0), b"a line.\n"))
        guest.destroy()
    assert len(machine.console._allowance) == before


def test_memory_never_passes_the_maximum(machine: Hypervisor) -> None:
    """By any of the ways to get more, one after the other."""
    for kind in (SmallDomain, SmallHvmDomain):
        guest = kind(machine)  # type: ignore[operator]
        guest.dom0.set_max_memory(guest.domid, 70)
        for command in (memory.XENMEM_populate_physmap, memory.XENMEM_increase_reservation):
            for order in (0, 3, 9):
                extents = struct.pack("<40Q", *range(0x1000, 0x1000 + (40 << order), 1 << order))
                where = guest.write(guest.vcpu.is_hvm * 0x1000 or guest.at(1), extents)
                argument = guest.put("QQIIHxxxxxx", where, 40, order, 0, SELF)
                guest.call(xen.HYPERVISOR_memory_op, command, argument)
        assert guest.domain.total_pages <= 70
        if guest.vcpu.is_hvm:  # a frame of Xen's in the place of RAM, which leaves
            table = memory.XENMAPSPACE_grant_table
            guest.call(xen.HYPERVISOR_memory_op, memory.XENMEM_add_to_physmap, guest.put("HHIQQ", SELF, 0, table, 0, 30))
            assert guest.domain.total_pages <= 69
        invariants.check(machine)
