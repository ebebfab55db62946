"""How long the hypervisor's lock is held at a stretch, by kind of hypercall, with the worst arguments that we know of.

    python -m tests.security.hold_times [--rounds N]

A hold is from the moment a thread gets the lock to the moment another may have it. For each case: the longest hold of a round, by the
clock and by the CPU time of the thread that held it, as the median of the rounds. The clock's figure has in it what else the machine did
meanwhile; the CPU's has not. No guest code runs: hypercalls are made as a vCPU's thread makes them, and continued as they ask to be.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import statistics
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pyxen.abi import event_channel, grant_table, memory, xen
from pyxen.abi.arch_x86_64 import VGCF_in_kernel, vcpu_guest_context, xen_pfn_to_cr3
from pyxen.abi.vcpu import VCPUOP_initialise
from pyxen.engine.interface import Engine, Lock
from pyxen.engine.unicorn_engine import UnicornEngine
from pyxen.hypervisor import grant_mapping, hypercall_table
from pyxen.hypervisor.frame_table import L4
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import PRESENT
from pyxen.hypervisor.preemption import Preempted
from tests.unit.hypervisor.grant_guest import GrantGuest
from tests.unit.hypervisor.machine import BASE, LEAF_FLAGS, PAGE, TABLE_FLAGS, SmallDomain

SELF = 0x7FF0
MACHINE_BYTES = 24 << 30
BIG_FRAMES = 1 << 18  #: 1 GiB
LIST = 4096  #: elements of the lists; more than one continuation's worth


class MeteredLock:
    """A re-entrant lock that knows the longest time that it was held, in milliseconds by the clock and of the holder's CPU time."""

    def __init__(self, lock: Lock) -> None:
        self._lock = lock
        self._depth = 0
        self._since = (0, 0)
        self.longest = (0.0, 0.0)

    def acquire(self) -> bool:
        self._lock.acquire()
        self._depth += 1
        if self._depth == 1:
            self._begin()
        return True

    def release(self) -> None:
        self._depth -= 1
        if not self._depth:
            self._end()
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def _begin(self) -> None:
        self._since = (time.monotonic_ns(), time.thread_time_ns())

    def _end(self) -> None:
        now = (time.monotonic_ns(), time.thread_time_ns())
        clock, cpu = ((end - begin) / 1e6 for begin, end in zip(self._since, now, strict=True))
        self.longest = (max(self.longest[0], clock), max(self.longest[1], cpu))

    def condition(self) -> threading.Condition:
        return threading.Condition(self)  # type: ignore[arg-type]

    # What threading.Condition needs.
    def _release_save(self) -> object:
        self._end()
        depth, self._depth = self._depth, 0
        return depth, self._lock._release_save()  # type: ignore[attr-defined]

    def _acquire_restore(self, saved: tuple[int, object]) -> None:
        self._lock._acquire_restore(saved[1])  # type: ignore[attr-defined]
        self._depth = saved[0]
        self._begin()

    def _is_owned(self) -> bool:
        return bool(self._lock._is_owned())  # type: ignore[attr-defined]


def _metered_engine(memory_address: int, memory_bytes: int) -> Engine:
    engine = UnicornEngine(memory_address, memory_bytes)
    engine.lock = MeteredLock(engine.lock)
    return engine


def metered_machine() -> tuple[Hypervisor, MeteredLock]:
    """A machine whose lock is metered."""
    machine = Hypervisor(_metered_engine, memory_bytes=MACHINE_BYTES, self_test=False)
    assert isinstance(machine.lock, MeteredLock)
    return machine, machine.lock


class BigDomain:
    """A domain of 1 GiB whose address space has ``tables`` full L1 tables below one L4; nothing of it is validated yet."""

    def __init__(self, machine: Hypervisor, tables: int = 2048) -> None:
        self.dom0 = machine.dom0
        self.machine = machine
        self.domid = self.dom0.create_domain(kind="pv", handle=bytes(16), max_vcpus=1)
        self.domain = machine.domain(self.domid)
        self.dom0.set_max_memory(self.domid, BIG_FRAMES)
        self.mfns = self.dom0.populate_physmap(self.domid, BIG_FRAMES)
        words = machine.memory.tables
        self.l1 = self.mfns[:tables]
        uppers = -(-tables // 512)
        self.l2, (self.l3, self.l4) = self.mfns[tables : tables + uppers], self.mfns[tables + uppers : tables + uppers + 2].tolist()
        data = self.mfns[tables + uppers + 2 :]
        for number, mfn in enumerate(self.l1):
            words[mfn] = np.roll(data, -512 * number)[:512] << np.uint64(12) | np.uint64(LEAF_FLAGS)
        for number, mfn in enumerate(self.l2):
            part = self.l1[512 * number : 512 * number + 512]
            words[mfn][: len(part)] = part << np.uint64(12) | np.uint64(TABLE_FLAGS)
        words[self.l3][:uppers] = self.l2 << np.uint64(12) | np.uint64(TABLE_FLAGS)
        words[self.l4][0] = self.l3 << 12 | TABLE_FLAGS

    def pin(self) -> None:
        with self.machine.lock:
            self.machine.frames.pin(self.l4, self.domid, L4)

    def unpin(self) -> None:
        with self.machine.lock:
            self.machine.frames.unpin(self.l4, self.domid)

    def give_all_up(self) -> None:
        """The data frames leave the reservation, but are still mapped."""
        for first in range(len(self.l1) + len(self.l2) + 2, len(self.mfns), 512):
            with self.machine.lock:
                for mfn in self.mfns[first : first + 512].tolist():
                    self.domain.release_frame(mfn)


@dataclass
class Round:
    """One machine, and the guests that attack it."""

    machine: Hypervisor
    lock: MeteredLock

    def guest(self, **options: int) -> GrantGuest:
        return GrantGuest(self.machine, pages=500, **options)


Case = Callable[[Round], Callable[[], object]]
CASES: dict[str, Case] = {}


def case(name: str) -> Callable[[Case], Case]:
    """Each case prepares, and returns what is to be measured."""

    def register(function: Case) -> Case:
        CASES[name] = function
        return function

    return register


def _call(guest: SmallDomain, number: int, *arguments: int) -> int:
    """A hypercall as a vCPU's thread makes it: between its continuations others may have the lock."""
    registers = [*arguments, *[0] * (6 - len(arguments))]
    while True:
        with guest.hypervisor.lock:
            try:
                return hypercall_table.call(guest.vcpu, number, tuple(registers))
            except Preempted as continuation:
                registers[: len(continuation.arguments)] = continuation.arguments


def _list(guest: SmallDomain, elements: bytes, pfn: int = 32) -> int:
    """Place a list of arguments. -> its address."""
    return guest.write(guest.at(pfn), elements)


@case("mmuext_op: pin of an L4 with 2048 full L1 tables")
def _(this: Round) -> Callable[[], object]:
    return BigDomain(this.machine).pin


@case("mmuext_op: unpin of it")
def _(this: Round) -> Callable[[], object]:
    big = BigDomain(this.machine)
    big.pin()
    return big.unpin


@case("mmuext_op: unpin of it frees all memory")
def _(this: Round) -> Callable[[], object]:
    big = BigDomain(this.machine, 512)
    big.pin()
    big.give_all_up()
    return big.unpin


@case("mmuext_op: 4096 pins and unpins of a full L1 table")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    table = guest.free_page()
    guest.hypervisor.memory.tables[table] = np.array(guest.mfns[:40] * 13, dtype=np.uint64)[:512] << np.uint64(12) | np.uint64(
        PRESENT | 0x20
    )
    pair = struct.pack("<IIQQ", xen.MMUEXT_PIN_L1_TABLE, 0, table, 0) + struct.pack("<IIQQ", xen.MMUEXT_UNPIN_TABLE, 0, table, 0)
    where = _list(guest, pair * (LIST // 2))
    return lambda: _call(guest, xen.HYPERVISOR_mmuext_op, where, LIST, 0, SELF)


@case("mmuext_op: 4096 page copies")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    where = _list(guest, struct.pack("<IIQQ", xen.MMUEXT_COPY_PAGE, 0, guest.mfns[20], guest.mfns[21]) * LIST)
    return lambda: _call(guest, xen.HYPERVISOR_mmuext_op, where, LIST, 0, SELF)


@case("mmuext_op: 4096 TLB flushes")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(vcpus=16)
    where = _list(guest, struct.pack("<IIQQ", xen.MMUEXT_TLB_FLUSH_ALL, 0, 0, 0) * LIST)
    return lambda: _call(guest, xen.HYPERVISOR_mmuext_op, where, LIST, 0, SELF)


@case("mmu_update: 4096 entries")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    slot = (guest.l1 << 12) + 8 * 510
    pair = struct.pack("<QQQQ", slot, guest.mfns[20] << 12 | 0x67, slot, guest.mfns[21] << 12 | 0x65)
    where = _list(guest, pair * (LIST // 2))
    return lambda: _call(guest, xen.HYPERVISOR_mmu_update, where, LIST, 0, SELF)


@case("update_va_mapping with a flush of 16 vCPUs")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(vcpus=16)
    return lambda: _call(guest, xen.HYPERVISOR_update_va_mapping, guest.at(20), guest.mfns[20] << 12 | 0x67, 5)


@case("set_gdt: 14 pages of descriptors")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    frames = [guest.free_page() for _ in range(14)]
    guest.hypervisor.memory.tables[np.array(frames)] = 0x00CFF3000000FFFF
    where = guest.put("14Q", *frames)
    return lambda: _call(guest, xen.HYPERVISOR_set_gdt, where, 7168)


@case("multicall: 512 set_gdt")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    frames = [guest.free_page() for _ in range(14)]
    guest.hypervisor.memory.tables[np.array(frames)] = 0x00CFF3000000FFFF
    where = guest.put("14Q", *frames)
    calls = _list(guest, struct.pack("<8Q", xen.HYPERVISOR_set_gdt, 0, where, 7168, 0, 0, 0, 0) * 512)
    return lambda: _call(guest, xen.HYPERVISOR_multicall, calls, 512)


@case("multicall: 1024 update_va_mapping with flushes")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(vcpus=16)
    call = struct.pack("<8Q", xen.HYPERVISOR_update_va_mapping, 0, guest.at(20), guest.mfns[20] << 12 | 0x67, 5, 0, 0, 0)
    calls = _list(guest, call * 1024)
    return lambda: _call(guest, xen.HYPERVISOR_multicall, calls, 1024)


@case("set_trap_table: endless")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    where = _list(guest, struct.pack("<BBHIQ", 3, 0, 0xE033, 0, BASE) * LIST + bytes(16))
    return lambda: _call(guest, xen.HYPERVISOR_set_trap_table, where)


def _reservation(guest: SmallDomain, extents: list[int], order: int) -> int:
    where = _list(guest, struct.pack(f"<{len(extents)}Q", *extents))
    return guest.put("QQIIHxxxxxx", where, len(extents), order, 0, SELF)


@case("memory_op: populate and give back 128 extents of order 9")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(max_pages=1 << 17)
    argument = _reservation(guest, [512 * index for index in range(128)], 9)

    def run() -> None:
        assert _call(guest, xen.HYPERVISOR_memory_op, memory.XENMEM_populate_physmap, argument) == 128
        assert _call(guest, xen.HYPERVISOR_memory_op, memory.XENMEM_decrease_reservation, argument) == 128

    return run


@case("memory_op: populate and give back 4096 single frames")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(max_pages=1 << 17)
    argument = _reservation(guest, list(range(LIST)), 0)

    def run() -> None:
        assert _call(guest, xen.HYPERVISOR_memory_op, memory.XENMEM_populate_physmap, argument) == LIST
        assert _call(guest, xen.HYPERVISOR_memory_op, memory.XENMEM_decrease_reservation, argument) == LIST

    return run


@case("grant_table_op: 4096 copies of a page")
def _(this: Round) -> Callable[[], object]:
    giver, taker = this.guest(), this.guest()
    giver.grant(9, taker.domid)
    copy = grant_table.gnttab_copy(len=PAGE, flags=1)
    copy.source.u.ref, copy.source.domid = 9, giver.domid
    copy.dest.u.gmfn, copy.dest.domid = taker.mfns[20], SELF
    where = _list(taker, bytes(copy) * LIST)
    return lambda: _call(taker, xen.HYPERVISOR_grant_table_op, grant_table.GNTTABOP_copy, where, LIST)


@case("grant_table_op: 4096 maps and unmaps")
def _(this: Round) -> Callable[[], object]:
    giver, taker = this.guest(), this.guest(vcpus=16)
    for reference in range(9, 500):
        giver.grant(reference, taker.domid, pfn=reference % 400)
    maps = [
        bytes(grant_table.gnttab_map_grant_ref(dom=giver.domid, ref=9 + n % 480, flags=3 | 4, host_addr=taker.at(400))) for n in range(LIST)
    ]

    def run() -> None:
        where = _list(taker, b"".join(maps))
        _call(taker, xen.HYPERVISOR_grant_table_op, grant_table.GNTTABOP_map_grant_ref, where, LIST)
        unmaps = [bytes(grant_table.gnttab_unmap_grant_ref(handle=n, dev_bus_addr=giver.mfns[9] << 12)) for n in range(LIST)]
        where = _list(taker, b"".join(unmaps))
        _call(taker, xen.HYPERVISOR_grant_table_op, grant_table.GNTTABOP_unmap_grant_ref, where, LIST)

    return run


@case("grant_table_op: setup_table of 64 frames, both versions")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()

    def run() -> None:
        guest.op(grant_table.GNTTABOP_setup_table, grant_table.gnttab_setup_table(dom=SELF, nr_frames=64, frame_list=guest.at(40)))
        guest.set_version(2)
        guest.set_version(1)

    return run


@case("grant_table_op: 4096 cache flushes beside 16384 grants in use")
def _(this: Round) -> Callable[[], object]:
    giver, taker = this.guest(), this.guest()
    giver.op(grant_table.GNTTABOP_setup_table, grant_table.gnttab_setup_table(dom=SELF, nr_frames=64, frame_list=giver.at(40)))
    for reference in range(9, 16384):
        giver.grant(reference, taker.domid, pfn=9 + reference % 400)
    maps = b"".join(bytes(grant_table.gnttab_map_grant_ref(dom=giver.domid, ref=n, flags=1)) for n in range(9, 16384))
    for first in range(0, len(maps), 32 * 4096):
        part = maps[first : first + 32 * 4096]
        _call(taker, xen.HYPERVISOR_grant_table_op, grant_table.GNTTABOP_map_grant_ref, _list(taker, part), len(part) // 32)
    flush = struct.pack("<QHHI", giver.mfns[1] << 12, 0, 8, 1)
    return lambda: [
        _call(taker, xen.HYPERVISOR_grant_table_op, grant_table.GNTTABOP_cache_flush, taker.write(taker.at(1), flush), 1) for _ in range(8)
    ]


@case("event_channel_op: reset of 4095 ports")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(max_evtchn_port=4095)
    with this.machine.lock:
        for _ in range(4094):
            guest.domain.event_channels.alloc_unbound(0)
    where = guest.put("H", SELF)
    return lambda: _call(guest, xen.HYPERVISOR_event_channel_op, event_channel.EVTCHNOP_reset, where)


@case("event_channel_op: init_control with 4094 events pending")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(max_evtchn_port=4095)
    with this.machine.lock:
        for _ in range(4094):
            port = guest.domain.event_channels.bind_ipi(0)
            guest.domain.event_channels.send(port)
    where = guest.put("QII8x", guest.mfns[30], 0, 0)
    return lambda: _call(guest, xen.HYPERVISOR_event_channel_op, event_channel.EVTCHNOP_init_control, where)


@case("console_io: 1.6 million empty lines")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest()
    where = _list(guest, b"\n" * (400 * PAGE))
    return lambda: _call(guest, xen.HYPERVISOR_console_io, 0, 400 * PAGE, where)


@case("vcpu_op: initialise with 14 GDT pages and a new root")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(vcpus=2)
    frames = [guest.free_page() for _ in range(14)]
    guest.hypervisor.memory.tables[np.array(frames)] = 0x00CFF3000000FFFF
    context = vcpu_guest_context(flags=VGCF_in_kernel, gdt_ents=7168)
    context.gdt_frames[:14] = frames
    context.ctrlreg[3] = xen_pfn_to_cr3(guest.l4)
    where = _list(guest, bytes(context))
    return lambda: _call(guest, xen.HYPERVISOR_vcpu_op, VCPUOP_initialise, 1, where)


@case("creation of a domain of 1 GiB")
def _(this: Round) -> Callable[[], object]:
    scattered = SmallDomain(this.machine, pages=500, max_pages=1 << 17)
    frames = this.machine.dom0.populate_physmap(scattered.domid, 1 << 16)
    with this.machine.lock:
        for mfn in frames[::2].tolist():
            scattered.domain.release_frame(mfn)
    return lambda: BigDomain(this.machine, 1)


@case("load of 256 MiB into a domain")
def _(this: Round) -> Callable[[], object]:
    big = BigDomain(this.machine, 1)
    data = bytes(256 << 20)
    return lambda: this.machine.dom0.write_foreign(big.domid, big.mfns[1000:], data)


@case("destruction of a domain of 1 GiB, in use")
def _(this: Round) -> Callable[[], object]:
    big = BigDomain(this.machine)
    big.pin()
    this.machine.memory.tables[big.mfns[3000:]] = np.uint64(1)
    return lambda: this.machine.dom0.destroy_domain(big.domid)


@case("destruction of a domain with 131071 ports")
def _(this: Round) -> Callable[[], object]:
    guest = this.guest(max_evtchn_port=131071)
    _call(guest, xen.HYPERVISOR_event_channel_op, event_channel.EVTCHNOP_init_control, guest.put("QII8x", guest.mfns[30], 0, 0))
    for _ in range(128):
        _call(guest, xen.HYPERVISOR_event_channel_op, event_channel.EVTCHNOP_expand_array, guest.put("Q", guest.mfns[31]))
        with this.machine.lock:
            for _ in range(1000):
                guest.domain.event_channels.alloc_unbound(0)
    return guest.destroy


@case("destruction of a domain that maps 16384 grants, 2048 page tables")
def _(this: Round) -> Callable[[], object]:
    giver, taker = this.guest(), BigDomain(this.machine)
    small = this.guest()
    taker.pin()
    giver.op(grant_table.GNTTABOP_setup_table, grant_table.gnttab_setup_table(dom=SELF, nr_frames=64, frame_list=giver.at(40)))
    for number in range(16384 - 9):
        giver.grant(9 + number, taker.domid, pfn=9 + number % 400)
        where = (int(taker.l1[number % 2048]) << 12) + 8 * (number // 2048)
        with this.machine.lock:
            grant_mapping.map_grant(taker.domain, 0, giver.domid, 9 + number, 2 | 16, where)
    assert small.domain
    return lambda: this.machine.dom0.destroy_domain(taker.domid)


def measure(name: str, rounds: int) -> tuple[float, float]:
    """-> milliseconds by the clock, and of CPU time."""
    results = []
    for _ in range(rounds):
        machine, lock = metered_machine()
        try:
            attack = CASES[name](Round(machine, lock))
            gc.collect()
            lock.longest = (0.0, 0.0)
            attack()
            results.append(lock.longest)
        finally:
            machine.close()
    return statistics.median(clock for clock, _ in results), statistics.median(cpu for _, cpu in results)


def main() -> None:
    parser = argparse.ArgumentParser(description="Longest holds of the hypervisor's lock, in milliseconds.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    arguments = parser.parse_args()
    CASES.update(importlib.import_module("tests.security.hold_cases").CASES)
    print(f"{'clock ms':>9} {'CPU ms':>9}  case")
    for name in CASES:
        if arguments.only in name:
            clock, cpu = measure(name, arguments.rounds)
            print(f"{clock:9.2f} {cpu:9.2f}  {name}", flush=True)


if __name__ == "__main__":
    main()
