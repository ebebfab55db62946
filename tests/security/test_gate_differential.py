"""The same random hypercalls and emulated instructions on two machines in the same state: one answers them by native code as far
as that goes, the other by Python alone. Results, registers, frame tables, roots, page tables and memory have to be the same after each;
all references are recounted.

The machines have the same frames with the same numbers, so nothing has to be translated. PYXEN_LONG=1 makes PYXEN_CALLS hypercalls (a
million), from a seed that PYXEN_SEED names.
"""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from pyxen.abi import event_channel as events
from pyxen.abi import grant_table as grants
from pyxen.abi import vcpu as vcpus
from pyxen.abi import xen
from pyxen.engine.interface import ExitReason
from pyxen.hypervisor import exits, guest_access, preemption, traps
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.frame_table import L1, L4, NONE, WRITABLE
from pyxen.hypervisor.gate import TrapEntry
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import NX, PRESENT, PSE, RW, USER
from pyxen.hypervisor.timers import Timer
from pyxen.hypervisor.vcpu import Vcpu
from tests.security.machine_pair import SEED, MachinePair, calls_to_make, forget_events, forget_ports, open_ports
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GrantGuest
from tests.unit.hypervisor.machine import LEAF_FLAGS, MASK64, TABLE_FLAGS, new_machine
from tests.unit.hypervisor.test_page_table_writes import ALL, instructions

CALLS = calls_to_make(3000)
CALLS_PER_MACHINE, CALLS_PER_RECOUNT = 500, 50

PAGES, LOOSE = 48, 16
#: PFNs: the arguments' page, the page after it, what `pdone` points to; pages that the other domain grants.
ARGUMENTS, DONE, GRANTED = 4, 6, range(8, 12)
#: PFNs of the FIFO ABI's pages: the control blocks, the words of the first ports.
CONTROL, WORDS = 12, 13
#: Words that a guest may write there.
WORD_FLAGS = (0, 1 << 31, 1 << 30, 1 << 29, 1 << 28, 1 << 31 | 1 << 29, 1 << 29 | 1 << 28, 0xF << 28)
#: Deadlines of the one-shot timer, in system time.
DEADLINES = (1 << 61, 1 << 61, 1 << 50, 1, 0, (1 << 63) - 1, 1 << 63, MASK64)
SYSCALL_LENGTH = 2
SELF = 0x7FF0
FLAGS = (
    (0, PRESENT, PRESENT | RW, TABLE_FLAGS, TABLE_FLAGS & ~RW, LEAF_FLAGS, LEAF_FLAGS & ~RW, LEAF_FLAGS | NX, PRESENT | USER | PSE)
    + (LEAF_FLAGS | 0x100, LEAF_FLAGS | 0x18, LEAF_FLAGS | 1 << 62, 1 << 62)
)  # fmt: skip
SLOTS = (0, 0, 1, 1, 2, 3, 40, 255, 256, 260, 271, 272, 511)
PIN, UNPIN = range(xen.MMUEXT_PIN_L1_TABLE, xen.MMUEXT_PIN_L4_TABLE + 1), xen.MMUEXT_UNPIN_TABLE
#: Instructions that write to [RBX]; each always lies at the same place, where the native code knows it again.
WRITES = [(name, size, octets) for name, size, octets, _ in instructions(random.Random(1))]
WRITE_STEP = 17
EXTENDED = (*PIN, *PIN, UNPIN, UNPIN, UNPIN, *range(5, 12), xen.MMUEXT_NEW_BASEPTR, xen.MMUEXT_NEW_USER_BASEPTR, 15, 13, 16, 99)


class Side:
    """One machine, its hostile domain of two vCPUs or one, and a domain that grants it pages."""

    def __init__(self, vcpus: int, *, fifo: bool) -> None:
        self.machine: Hypervisor = new_machine()
        self.guest = GrantGuest(self.machine, pages=PAGES, vcpus=vcpus)
        self.giver = GrantGuest(self.machine, pages=32)
        self.loose = [self.guest.free_page() for _ in range(LOOSE)]
        for reference, pfn in enumerate(GRANTED, 8):
            self.giver.grant(reference, self.guest.domid, pfn)
        self.native = self.vcpu.gate.enabled != 0
        self.guest.domain.vm_assist = 1 << xen.VMASST_TYPE_writable_pagetables
        for vector in (traps.VECTOR_DB, traps.VECTOR_GP, traps.VECTOR_PF):
            self.vcpu.traps[vector] = TrapEntry(0x2000, 0, masks_events=False)
        mfns = self.guest.mfns
        self.ports = open_ports(self.guest.domain, (mfns[CONTROL], mfns[WORDS]) if fifo else None)
        self.served: Counter[str] = Counter()

    @property
    def vcpu(self) -> Vcpu:
        return self.guest.vcpu

    def hypercall(self, name: str, number: int, arguments: tuple[int, ...]) -> None:
        """As the guest's kernel makes it, until it is over."""
        vcpu, state = self.vcpu, self.vcpu.state
        with self.machine.lock:
            state.rax, state.rip, state.rflags = number, 0x1000, 0x202
            state.rdi, state.rsi, state.rdx, state.r10 = (*(value & MASK64 for value in arguments), 0, 0, 0, 0)[:4]
            while state.rip == 0x1000:
                state.rip += SYSCALL_LENGTH
                state.exit_reason, state.instruction_length = ExitReason.SYSCALL, SYSCALL_LENGTH
                served = self.native and vcpu.cpu.serve_exit()
                self.served[f"{name} {'natively' if served else 'by Python'}"] += 1
                if not served:
                    exits.on_syscall(vcpu)

    def write_table(self, address: int, rip: int, rax: int, rcx: int, flags: int) -> None:
        """The guest's kernel has executed the instruction at ``rip``, which writes to a page table at ``address``."""
        state = self.vcpu.state
        state.rax, state.rcx, state.cr2 = rax, rcx, address
        self.exception("table write", rip, flags, traps.VECTOR_PF, 3)

    def exception(self, name: str, rip: int, flags: int, vector: int, error_code: int) -> None:
        """The guest's kernel has executed the instruction at ``rip``."""
        vcpu, state = self.vcpu, self.vcpu.state
        with self.machine.lock:
            state.rip, state.rflags, state.rsp = rip, flags, self.guest.at(ARGUMENTS + 1, 2048)
            state.exit_reason, state.vector, state.error_code = ExitReason.EXCEPTION, vector, error_code
            served = self.native and vcpu.cpu.serve_exit()
            self.served[f"{name} {'natively' if served else 'by Python'}"] += 1
            if not served:
                exits.on_exception(vcpu)

    def put(self, mfn: int, offset: int, data: bytes) -> None:
        """Into a frame that the guest could have mapped writable, or nowhere."""
        frames = self.machine.frames
        if self.machine.memory.owner[mfn] == self.guest.domid and (frames.type[mfn] == WRITABLE or not frames.type_count[mfn]):
            self.machine.memory.octets[(mfn << 12) + offset : (mfn << 12) + offset + len(data)] = data

    def picture(self) -> list[object]:
        """All that has to be the same. A frame that nothing holds as anything may have been something else on the way to a refusal, which
        is why its last type counts only by what ``check_flushes`` says of it."""
        state, vcpus, frames = self.vcpu.state, self.guest.domain.vcpus, self.machine.frames
        held = frames.type_counts != 0
        registers = (state.rsp, state.rax, state.rip, state.rcx, state.r11, state.rdx, state.r10, state.rflags, state.cr3, state.cr0)
        roots = [(vcpu.kernel_root, vcpu.user_root, vcpu.kernel_sp, vcpu.kernel_ss, vcpu.gs_base_other, vcpu.cr0) for vcpu in vcpus]
        counts = sorted(self.guest.domain.hypercall_counts().items())
        arrays = (frames.counts, frames.type_counts, frames.types * held, frames.flags_array, self.machine.memory.owners)
        domain = self.guest.domain
        return [registers, roots, counts, domain.total_pages, domain.is_shut_down, *self._events(), *(array.tobytes() for array in arrays)]

    def _events(self) -> list[object]:
        """All that the hypervisor and the guest, outside its own pages, have of events and of the one-shot timers."""
        octets, domain = self.machine.memory.octets, self.guest.domain
        found: list[object] = [bytes(octets[domain.shared_info + 2048 : domain.shared_info + 3072]), domain.native_ports.queues.tobytes()]
        for vcpu in domain.vcpus:
            found += [bytes(octets[vcpu.info : vcpu.info + 16]), list(vcpu.gate.event_tails), vcpu.blocked, vcpu.polled_port]
            found.append(vcpu.gate.timer_deadline)
        return found


class Pair(MachinePair[Side]):
    """Both, and the hypercalls."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.random = random.Random(seed)
        vcpus, fifo = self.random.choice((1, 2)), self.random.random() < 0.7
        #: Few, so that each is met again.
        self.writes = self.random.sample(range(len(WRITES)), 3)
        super().__init__(lambda: Side(vcpus, fifo=fifo), monkeypatch)
        assert self.native.guest.mfns == self.python.guest.mfns
        guest = self.native.guest
        self.compared = np.array(guest.mfns + self.native.giver.mfns)
        self.tables = (guest.l1, guest.l2, guest.l3, guest.l4)
        self.strange = [guest.domain.shared_info >> 12, self.native.giver.l1, self.native.machine.gdt_frame, 0, (64 << 20) >> 12]

    # -- what to call ----------------------------------------------------------------------------------------------------
    def frame(self) -> int:
        kind = self.random.random()
        if kind < 0.9:
            return self.random.choice(self.native.loose)
        if kind < 0.95:
            return self.random.choice(self.native.guest.mfns[DONE + 1 :])
        return self.random.choice(self.tables if kind < 0.965 else self.strange)

    def entry(self) -> int:
        return self.frame() << 12 | self.random.choice(FLAGS if self.random.random() < 0.3 else FLAGS[1:8])

    def table(self) -> int:
        """A frame that is a page table now, if one of some is."""
        kinds = self.native.machine.frames
        some = [self.frame() for _ in range(6)]
        return next((mfn for mfn in some if mfn < len(kinds.types) and kinds.type_count[mfn] and L1 <= kinds.type[mfn] <= L4), some[0])

    def update(self) -> bytes:
        command = self.random.choice((0, 0, 0, 0, 0, 0, 2, 2, 2, 3, 1, 5))
        return struct.pack("<2Q", self.table() << 12 | self.random.choice(SLOTS) * 8 | command, self.entry())

    def extended(self) -> bytes:
        command = self.random.choice(EXTENDED)
        first = self.native.guest.at(self.random.randrange(PAGES)) if command in (7, 9, 11, 13) else self.frame()
        return struct.pack("<I4xQQ", command, first, self.address(DONE))

    def address(self, pfn: int) -> int:
        """Mostly that page's; now and then one that is not mapped, read-only, or just before the end of the page."""
        kind = self.random.random()
        guest = self.native.guest
        return guest.at(pfn) if kind < 0.95 else guest.at(pfn, 4094) if kind < 0.97 else guest.at(PAGES - 1) if kind < 0.99 else 0xDEAD000

    def simple(self, offset: int) -> tuple[str, int, tuple[int, ...], bytes]:
        """Name, number, arguments, and what they need in memory at ``offset`` of the arguments' page."""
        guest, place = self.native.guest, self.native.guest.at(ARGUMENTS, offset)
        done = self.random.choice((0, self.address(DONE)))
        foreign = self.random.choice((*(SELF,) * 9, guest.domid, SELF + 1 << 16 | SELF, self.native.giver.domid, 0))
        count = self.random.choice((1, 1, 1, 2, 2, 4))
        kind = self.random.randrange(13)
        if kind < 4:
            data = b"".join(self.update() for _ in range(count))
            wanted = self.random.choice((count, count, count | 1 << 63, count | 1 << 31))
            return "mmu_update", xen.HYPERVISOR_mmu_update, (place, wanted, done, foreign), data
        if kind < 7:
            data = b"".join(self.extended() for _ in range(count))
            return "mmuext_op", xen.HYPERVISOR_mmuext_op, (place, count, done, foreign), data
        if kind < 9:
            where = self.random.choice(
                (*(guest.at(self.random.randrange(DONE + 1, PAGES)) for _ in range(5)), 0xFFFF_8000_0000_0000, 1 << 30, 1 << 46)
            )
            flags = self.random.choice((0, 1, 2, 3, 4 | 1, 4 | 2, self.address(DONE) | 1))
            return "update_va_mapping", xen.HYPERVISOR_update_va_mapping, (where, self.entry(), flags), b""
        if kind < 11:
            port = self.random.choice((*self.native.ports, *self.native.ports, 0, 77, 5000, 1 << 17, 1 << 31))
            command = self.random.choice((events.EVTCHNOP_send,) * 9 + (events.EVTCHNOP_unmask,))
            return "event_channel_op", xen.HYPERVISOR_event_channel_op, (command, place), struct.pack("<I", port)
        if kind < 12:
            set_timer, stop = vcpus.VCPUOP_set_singleshot_timer, vcpus.VCPUOP_stop_singleshot_timer
            command = self.random.choice((vcpus.VCPUOP_is_up, set_timer, set_timer, set_timer, stop, 99))
            arguments = (command, self.random.choice((0, 0, 0, 1, 2, 8000, 1 << 32)), place)
            data = struct.pack("<QI4x", self.random.choice(DEADLINES), self.random.choice((0, 0, 0, 1)))
            return "vcpu_op", xen.HYPERVISOR_vcpu_op, arguments, data
        number, arguments = self.random.choice(
            ((xen.HYPERVISOR_stack_switch, (0x10, 0x8000)), (xen.HYPERVISOR_fpu_taskswitch, (self.random.randrange(2),)),
             (xen.HYPERVISOR_set_segment_base, (self.random.randrange(4), self.random.choice((0, 0x7000, 1 << 62)))),
             (xen.HYPERVISOR_xen_version, (0, 0)), (xen.HYPERVISOR_sched_op, (0, 0)), (77, (1, 2)))
        )  # fmt: skip
        return "another", number, arguments, b""

    def several(self) -> tuple[str, int, tuple[int, ...], bytes]:
        """A multicall: its entries at the start of the page, what they need behind them."""
        entries, rest = b"", b""
        count = self.random.choice((1, 2, 2, 3, 6))
        for _ in range(count):
            _, number, arguments, data = self.simple(64 * count + len(rest))
            entries += struct.pack("<8Q", number, 0x55, *(value & MASK64 for value in arguments), *(0,) * (6 - len(arguments)))
            rest += data
        return "multicall", xen.HYPERVISOR_multicall, (self.address(ARGUMENTS), count), entries + rest

    # -- steps -------------------------------------------------------------------------------------------------------------
    def step(self) -> None:
        kind = self.random.random()
        if kind < 0.35:
            self._store(self.frame(), self.random.choice(SLOTS), self.random.choice((1, 1, 1, 2, 40)))
        elif kind < 0.36:
            mfn = self.frame()
            assert _leave(self.native, mfn) == _leave(self.python, mfn)
        elif kind < 0.39:
            self._map_grant(self.random.choice(GRANTED), self.random.randrange(DONE + 1, PAGES), self.random.randrange(2))
        elif kind < 0.53:
            self._write_table()
            return
        elif kind < 0.56:
            self._set_interrupt_flag()
            return
        elif kind < 0.62:
            self._disturb_events()
        offset = self.random.choice((0, 0, 4088))
        if self.random.random() < 0.3:
            name, number, arguments, data = self.several()
            offset = arguments[0] & 0xFFF
        else:
            name, number, arguments, data = self.simple(offset)
        counters = self._counters()
        before = self.native.machine.frames
        old = (before.types.copy(), before.type_counts.copy(), before.stamps.copy(), before.clock)
        for side in self.sides:
            side.put(side.guest.mfns[ARGUMENTS], 0, (bytes(offset) + data)[:4096].ljust(4096, b"\0"))
            side.put(side.guest.mfns[ARGUMENTS + 1], 0, data[4096 - offset :])
            side.hypercall(name, number, arguments)
        self._check_flushes(*old)
        self._forget_lost(counters)
        self.compare(f"{name}{tuple(map(hex, arguments))} {data.hex()}", entries=arguments[1] if name == "multicall" else 0)

    def _counters(self) -> list[int]:
        """Machine address of each octet that a list's counter may go to, 0 where none can be written."""
        guest = self.native.guest
        places = []
        for address in (*_octets(guest.at(DONE)), *_octets(guest.at(DONE, 4094)), *_octets(guest.at(PAGES - 1))):
            try:
                places.append(guest_access.translate(guest.vcpu, address, write=True))
            except guest_access.GuestFault:
                places.append(0)
        return places

    def _forget_lost(self, counters: list[int]) -> None:
        """A list that unmaps its own counter leaves there what was done when Python took over, as after a preemption."""
        for old, new in zip(counters, self._counters(), strict=True):
            if old and old != new:
                self.python.machine.memory.octets[old] = self.native.machine.memory.octets[old]

    def _store(self, mfn: int, slot: int, copies: int) -> None:
        if mfn < self.native.machine.memory.total_frames:
            entry = self.entry()
            data = struct.pack("<Q", entry) * min(copies, 512 - slot)
            for side in self.sides:
                side.put(mfn, 8 * slot, data)

    def _map_grant(self, reference: int, pfn: int, readonly: int) -> None:
        flags = grants.GNTMAP_host_map | (grants.GNTMAP_readonly if readonly else 0)
        fields = {"host_addr": self.native.guest.at(pfn), "flags": flags, "ref": reference, "dom": self.native.giver.domid}
        data = bytes(grants.gnttab_map_grant_ref(**fields))
        for side in self.sides:
            side.put(side.guest.mfns[ARGUMENTS], 0, data.ljust(4096, b"\0"))
            side.hypercall("map a grant", xen.HYPERVISOR_grant_table_op, (grants.GNTTABOP_map_grant_ref, side.guest.at(ARGUMENTS), 1))
        self.compare("map a grant")

    def _write_table(self) -> None:
        """Through the read-only mapping of the L1 table that maps the guest's pages."""
        guest = self.native.guest
        place = self.random.choice(self.writes)
        name, size, octets = WRITES[place]
        slot = self.random.choice((*range(DONE + 1, PAGES - 1), *range(PAGES, 512, 40)))
        offset = self.random.choice((0, 0, 0, 4, 1, 7)) if size < 8 else 0
        old = guest.words[(guest.l1 << 9) + slot] >> 8 * offset
        rax = self.random.choice((old, old, self.entry()))
        absent, mask = self.random.getrandbits(64) & ~1, MASK64 - self.random.choice((1, 2, 0x60))
        rcx = self.random.choice((self.entry(), self.entry(), absent, absent, old, mask, self.random.getrandbits(64)))
        flags = self.random.choice((2, 2, 2 | ALL, 0x202, 0x102))
        for side in self.sides:
            side.put(side.guest.mfns[ARGUMENTS], 0, (bytes(WRITE_STEP * place) + octets).ljust(4096, b"\0"))
            where = side.guest.at(PAGES - 1, 8 * slot + offset)
            side.write_table(where, side.guest.at(ARGUMENTS, WRITE_STEP * place), rax & MASK64, rcx & MASK64, flags)
        self.compare(f"{name} of {size} octets in slot {slot} at {offset}: {old:#x}, RAX {rax:#x}, RCX {rcx:#x}")

    def _set_interrupt_flag(self) -> None:
        """cli, sti, or something else that is #GP."""
        octet, iopl, error = (
            self.random.choice((0xFA, 0xFA, 0xFB, 0xF4)),
            self.random.choice((0, 1, 1, 3)),
            self.random.choice((0, 0, 0, 8)),
        )
        flags = self.random.choice((2, 2, 0x202, 0x102, 0x10202))
        for side in self.sides:
            side.vcpu.iopl = iopl
            side.put(side.guest.mfns[ARGUMENTS], 0, bytes((octet,)) * 4096)
            side.exception("cli, sti", side.guest.at(ARGUMENTS, 5), flags, traps.VECTOR_GP, error)
        self.compare(f"{octet:#x} at IOPL {iopl}, flags {flags:#x}")

    def _disturb_events(self) -> None:
        """The guest writes to the words of its queues, handles what is pending, or masks it; a vCPU sleeps."""
        word = self.random.choice(WORD_FLAGS) | self.random.choice((0, 0, *self.native.ports, 900))
        port, masked = self.random.choice(self.native.ports), self.random.randrange(2)
        kind = self.random.randrange(4)
        poll = self.random.choice((None, None, -1, self.native.ports[0], 900))
        for side in self.sides:
            last = side.guest.domain.vcpus[-1]
            if kind == 0:
                side.put(side.guest.mfns[WORDS], 4 * port, struct.pack("<I", word))
            elif kind == 1:
                forget_events(last, masked)
                side.put(side.guest.mfns[CONTROL], 0, bytes(4096))
            elif kind == 2:
                forget_ports(side.guest.domain, masked)
            elif last is not side.vcpu:
                last.blocked = masked
                last.polled_port = poll if masked else None

    # -- what must be ------------------------------------------------------------------------------------------------------
    def compare(self, what: str, *, entries: int = 0) -> None:
        """``entries`` of a multicall hold what was left of their arguments when Python took over, as after a preemption."""
        assert self.native.picture() == self.python.picture(), what
        pages = []
        for side in self.sides:
            memory = side.machine.memory.tables[self.compared]
            memory[ARGUMENTS, : 8 * entries].reshape(-1, 8)[:, 2:] = 0
            pages.append(memory)
        where = [(hex(self.compared[page]), int(word)) for page, word in np.argwhere(pages[0] != pages[1])]
        values = [tuple(hex(side[side != other][0]) for side, other in (pages, pages[::-1]))] if where else []
        assert not where, f"{what}: differs at {where}: {values}"

    def _check_flushes(self, types: np.ndarray, counts: np.ndarray, stamps: np.ndarray, clock: int) -> None:
        """A frame has another type than it had: no TLB holds a translation of when it had that."""
        frames = self.native.machine.frames
        for mfn in np.flatnonzero((frames.types != types) & (types != NONE) & (frames.type_counts != 0)).tolist():
            given_up = clock if counts[mfn] else stamps[mfn]
            assert all(vcpu.flush_clock > given_up for vcpu in self.native.guest.domain.vcpus), f"frame {mfn:#x} was not flushed"

    def recount(self) -> None:
        for side in self.sides:
            invariants.check(side.machine)

    @property
    def is_over(self) -> bool:
        """Whether the domain has lost what it needs to make sensible calls."""
        guest = self.native.guest
        try:
            found = [guest_access.translate(guest.vcpu, guest.at(pfn), write=True) for pfn in (ARGUMENTS, ARGUMENTS + 1, DONE)]
        except guest_access.GuestFault:
            return True
        return guest.domain.is_shut_down or found != [guest.mfns[pfn] << 12 for pfn in (ARGUMENTS, ARGUMENTS + 1, DONE)]


def _octets(address: int) -> range:
    """Of a counter."""
    return range(address, address + 4)


def _leave(side: Side, mfn: int) -> str:
    """A frame leaves the reservation, but may still be mapped."""
    with side.machine.lock:
        try:
            side.guest.domain.release_frame(mfn)
        except Exception as refusal:
            return repr(refusal)
    return ""


@pytest.fixture
def totals() -> Iterator[Counter[str]]:
    yield Counter()


@pytest.mark.timeout(60 + CALLS // 50)
def test_native_code_does_what_python_does(monkeypatch: pytest.MonkeyPatch, totals: Counter[str]) -> None:
    monkeypatch.setattr(preemption, "SLICE_NS", 10**12)  # a busy machine changes no count
    monkeypatch.setattr(Domain, "add_timer", lambda domain, deadline_ns, callback: Timer(deadline_ns, callback))  # none ever fires
    calls, seed = 0, SEED
    while calls < CALLS:
        pair = Pair(seed, monkeypatch)
        for number in range(CALLS_PER_MACHINE):
            pair.step()
            calls += 1
            if number % CALLS_PER_RECOUNT == CALLS_PER_RECOUNT - 1:
                pair.recount()
            if pair.is_over:
                break
        pair.recount()
        totals += pair.native.served
        pair.close()
        seed += 1
    print(f"\n{calls} calls on {seed - SEED} machines: {sorted(totals.items())}")
    for name in ("mmu_update", "mmuext_op", "update_va_mapping", "multicall", "table write", "event_channel_op", "vcpu_op", "cli, sti"):
        assert totals[f"{name} natively"] > CALLS / 200, totals
        assert totals[f"{name} by Python"] > 0, totals
