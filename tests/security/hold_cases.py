"""More cases for ``hold_times``: PVH guests' memory, storms of events, and what Domain 0 does with guests' memory for its programs."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np

from pyxen.abi import event_channel, memory, xen
from pyxen.hypervisor.dom0_interface import GrantCopy
from pyxen.hypervisor.hvm import local_apic
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.security.hold_times import BIG_FRAMES, CASES, LIST, SELF, Round, _call, _list, case
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import PAGE

__all__ = ["CASES"]

LAST_GFN = (1 << 24) - 1
HIGH = 0x100000


class BigHvmDomain(SmallHvmDomain):
    """A PVH domain of 1 GiB."""

    def __init__(self, machine: Hypervisor, *, vcpus: int = 1) -> None:
        super().__init__(machine, pages=4096, vcpus=vcpus)
        self.dom0.set_max_memory(self.domid, BIG_FRAMES + LIST)
        for first in range(4096, BIG_FRAMES, 4096):
            self.dom0.populate_guest_frames(self.domid, np.arange(first, first + 4096, dtype=np.uint64))


def _memory_op(guest: SmallHvmDomain, command: int, argument: bytes) -> Callable[[], object]:
    where = guest.write(0, argument)
    return lambda: _call(guest, xen.HYPERVISOR_memory_op, command, where)  # type: ignore[arg-type]


def _place(gfn: int, *, space: int = memory.XENMAPSPACE_shared_info, index: int = 0, size: int = 0) -> bytes:
    return struct.pack("<HHIQQ", SELF, size, space, index, gfn)


@case("PVH memory_op: populate and give back 4096 single frames")
def _(this: Round) -> Callable[[], object]:
    return _populate(this, 0, LIST)


@case("PVH memory_op: populate and give back 128 extents of order 9")
def _(this: Round) -> Callable[[], object]:
    return _populate(this, 9, 128)


def _populate(this: Round, order: int, count: int) -> Callable[[], object]:
    guest = SmallHvmDomain(this.machine, pages=512, vcpus=16)
    guest.dom0.set_max_memory(guest.domid, 1 << 17)
    guest.write(PAGE, struct.pack(f"<{count}Q", *range(HIGH, HIGH + (count << order), 1 << order)))
    argument = guest.write(0, struct.pack("<QQIIHxxxxxx", PAGE, count, order, 0, SELF))

    def run() -> None:
        assert _call(guest, xen.HYPERVISOR_memory_op, memory.XENMEM_populate_physmap, argument) == count  # type: ignore[arg-type]
        assert _call(guest, xen.HYPERVISOR_memory_op, memory.XENMEM_decrease_reservation, argument) == count  # type: ignore[arg-type]

    return run


@case("PVH memory_op: 4096 places in a batch")
def _(this: Round) -> Callable[[], object]:
    guest = SmallHvmDomain(this.machine, pages=512, vcpus=16)
    guest.write(PAGE, struct.pack(f"<{LIST}Q", *(index % 400 + 64 for index in range(LIST))))
    guest.write(9 * PAGE, struct.pack(f"<{LIST}Q", *(HIGH + index for index in range(LIST))))
    batch = memory.add_to_physmap_batch(domid=SELF, space=memory.XENMAPSPACE_gmfn, size=LIST)
    batch.idxs, batch.gpfns, batch.errs = PAGE, 9 * PAGE, 17 * PAGE
    return _memory_op(guest, memory.XENMEM_add_to_physmap_batch, bytes(batch))


@case("PVH memory_op: a range of 65535 places")
def _(this: Round) -> Callable[[], object]:
    guest = BigHvmDomain(this.machine, vcpus=16)
    return _memory_op(guest, memory.XENMEM_add_to_physmap, _place(2 * HIGH, space=memory.XENMAPSPACE_gmfn_range, index=4096, size=65535))


@case("PVH memory_op: the first place at the end of physical memory")
def _(this: Round) -> Callable[[], object]:
    return _memory_op(SmallHvmDomain(this.machine, pages=512, vcpus=16), memory.XENMEM_add_to_physmap, _place(LAST_GFN))


@case("PVH memory_op: maximum_gpfn")
def _(this: Round) -> Callable[[], object]:
    guest = SmallHvmDomain(this.machine, pages=512)
    _memory_op(guest, memory.XENMEM_add_to_physmap, _place(LAST_GFN))()
    _memory_op(guest, memory.XENMEM_remove_from_physmap, struct.pack("<HxxxxxxQ", SELF, LAST_GFN))()
    return _memory_op(guest, memory.XENMEM_maximum_gpfn, struct.pack("<H", SELF))


@case("PVH: 1000 broadcasts of interrupts to 16 vCPUs")
def _(this: Round) -> Callable[[], object]:
    apic = SmallHvmDomain(this.machine, vcpus=16).vcpu.local_apic

    def run() -> None:
        for number in range(1000):
            with this.machine.lock:
                apic.write(local_apic.ICR, 2 << 18 | 32 + number % 200)

    return run


@case("PVH: creation of a domain of 1 GiB with 16 vCPUs")
def _(this: Round) -> Callable[[], object]:
    return lambda: BigHvmDomain(this.machine, vcpus=16)


@case("PVH: destruction of a domain of 1 GiB whose physical map is as long as it can be")
def _(this: Round) -> Callable[[], object]:
    guest = BigHvmDomain(this.machine)
    _memory_op(guest, memory.XENMEM_add_to_physmap, _place(LAST_GFN))()
    return lambda: this.machine.dom0.destroy_domain(guest.domid)


@case("multicall: 4096 events to a program of Domain 0")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    port = this.machine.dom0.evtchn_alloc_unbound(guest.domid, 0)
    this.machine.dom0.bind_interdomain(guest.domid, port, lambda: None)
    argument = guest.put("I", port)
    call = struct.pack("<8Q", xen.HYPERVISOR_event_channel_op, 0, event_channel.EVTCHNOP_send, argument, 0, 0, 0, 0)
    where = _list(guest, call * LIST)
    return lambda: _call(guest, xen.HYPERVISOR_multicall, where, LIST)


@case("multicall: 4096 IPIs to a vCPU, by FIFO queues")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(vcpus=2)
    assert not _call(guest, xen.HYPERVISOR_event_channel_op, event_channel.EVTCHNOP_init_control, guest.put("QII8x", guest.mfns[30], 0, 0))
    assert not _call(guest, xen.HYPERVISOR_event_channel_op, event_channel.EVTCHNOP_expand_array, guest.put("Q", guest.mfns[31]))
    with this.machine.lock:
        ports = [guest.domain.event_channels.bind_ipi(0) for _ in range(400)]
    guest.write(guest.at(1), struct.pack(f"<{len(ports)}I", *ports))
    calls = (
        struct.pack("<8Q", xen.HYPERVISOR_event_channel_op, 0, event_channel.EVTCHNOP_send, guest.at(1, 4 * (number % 400)), 0, 0, 0, 0)
        for number in range(LIST)
    )
    where = _list(guest, b"".join(calls))
    return lambda: _call(guest, xen.HYPERVISOR_multicall, where, LIST)


@case("Domain 0: list and foreign maps of the frames of a domain of 1 GiB")
def _(this: Round) -> Callable[[], object]:
    guest, dom0 = BigHvmDomain(this.machine), this.machine.dom0

    def run() -> None:
        frames = dom0.memory_list(guest.domid)[:2048].tolist()
        for mfn in frames:
            dom0.map_foreign(guest.domid, mfn)
        for mfn in frames:
            dom0.unmap_foreign(guest.domid, mfn)

    return run


@case("Domain 0: 256 grants mapped and unmapped at once, 512 pages copied")
def _(this: Round) -> Callable[[], object]:
    guest, dom0 = this.guest(), this.machine.dom0
    references = range(9, 265)
    for reference in references:
        guest.grant(reference, 0, pfn=reference)
    local = memoryview(bytearray(PAGE))

    def run() -> None:
        dom0.map_grants(guest.domid, references, writable=True)
        dom0.unmap_grants(guest.domid, references, writable=True)
        dom0.grant_copy([GrantCopy(guest.domid, 9 + number % 256, 0, local, bool(number % 2)) for number in range(512)])

    return run
