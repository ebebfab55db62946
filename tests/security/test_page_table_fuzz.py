"""Random edits of page tables by everything that edits them: stores to frames that are tables of no kind yet, mmu_update,
update_va_mapping, emulated writes, pins, new roots, descriptor pages, grant mappings, and frames that leave the reservation. After each
step every reference is recounted.

Frames and slots are named by small numbers, so that what hypothesis's shrinking leaves of a failure can be read.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyxen.abi import grant_table as grants
from pyxen.abi import memory as memory_abi
from pyxen.abi import xen
from pyxen.hypervisor import guest_access, page_table_writes
from pyxen.hypervisor.frame_table import NONE, WRITABLE
from pyxen.hypervisor.page_tables import NX, PRESENT, PSE, RW, USER
from tests.security.campaign import LONG, SEED, explore
from tests.security.hostile_guest import make_hypercall
from tests.unit.hypervisor import invariants
from tests.unit.hypervisor.grant_guest import GrantGuest
from tests.unit.hypervisor.machine import LEAF_FLAGS, MASK64, TABLE_FLAGS, new_machine

SEEDS = int(os.environ.get("PYXEN_SEEDS", "100" if LONG else "3"))
STEPS = 80
SELF = 0x7FF0
LOOSE = 10
#: PFNs: arguments, an instruction, what is granted, and where grants are mapped.
ARGUMENTS, CODE, DATA, GRANTED, WINDOW = 5, 6, 7, range(8, 12), range(30, 34)

#: Which frame: loose ones first, then the guest's own tables, a page that it has mapped, the other domain's, Xen's, and none.
FRAME = st.integers(0, LOOSE + 10)
#: What may be a table, its own ones most of all.
TABLE = st.sampled_from((LOOSE, 0, 1, LOOSE, 2, LOOSE, LOOSE + 1, LOOSE, LOOSE + 2, LOOSE + 3, *range(3, LOOSE), LOOSE + 7, LOOSE + 9))
SLOT = st.sampled_from((1, 0, 2, 3, 40, 41, 42, 255, 256, 260, 271, 272, 511))
FLAGS = st.sampled_from(
    (0, TABLE_FLAGS, LEAF_FLAGS, LEAF_FLAGS & ~RW, PRESENT, PRESENT | RW, TABLE_FLAGS & ~RW, PRESENT | USER | PSE, LEAF_FLAGS | NX)
    + (LEAF_FLAGS | 0x100, LEAF_FLAGS | 0x18, LEAF_FLAGS | 1 << 62, LEAF_FLAGS | 1 << 58)
)
LEVEL = st.integers(0, 3)
PAGE_OF_GUEST = st.one_of(st.integers(8, 47), st.integers(0, 47))
PAGE_OF_WINDOW = st.integers(0, len(WINDOW) - 1)
#: mov, xchg, lock cmpxchg, or: RCX to [RBX], whose address the test says.
WRITES = st.sampled_from((b"\x48\x89\x0b", b"\x48\x87\x0b", b"\xf0\x48\x0f\xb1\x0b", b"\x48\x09\x0b"))


@dataclass
class Totals:
    """Of all examples: hypercalls by name and whether they were answered with success."""

    answers: Counter[tuple[str, bool]] = field(default_factory=Counter)
    steps: int = 0


class PageTableEdits(RuleBasedStateMachine):
    """One hostile domain with two vCPUs, and one that grants it frames."""

    totals: ClassVar[Totals] = Totals()

    def __init__(self) -> None:
        super().__init__()
        self.machine = new_machine()
        self.free = self.machine.memory.free_frames
        self.guest = GrantGuest(self.machine, pages=48, vcpus=2)
        self.giver = GrantGuest(self.machine, pages=32)
        self.loose = [self.guest.free_page() for _ in range(LOOSE)]
        for reference, pfn in enumerate(GRANTED, 8):
            self.giver.grant(reference, self.guest.domid, pfn)
        guest = self.guest
        self.frames = [*self.loose, *self._own_tables(), guest.mfns[DATA], guest.domain.shared_info >> 12]
        self.frames += [self.giver.mfns[GRANTED[0]], self.giver.l1, self.machine.gdt_frame, 0, self.machine.memory.total_frames]
        self.handles: list[tuple[int, int, bool]] = []

    def _own_tables(self) -> tuple[int, ...]:
        return self.guest.l1, self.guest.l2, self.guest.l3, self.guest.l4

    def _call(self, name: str, number: int, *arguments: int) -> int | None:
        result = make_hypercall(self.guest.vcpu, number, tuple(argument & MASK64 for argument in arguments))
        note(f"-> {result}")
        self.totals.answers[name, result is not None and result >= 0] += 1
        return result

    def _put(self, data: bytes) -> int:
        """Arguments, by the frame that the guest began with; the mapping may be lost."""
        mfn = self.guest.mfns[ARGUMENTS]
        if self.machine.memory.owner[mfn] == self.guest.domid and self.guest.frames.type[mfn] in (NONE, WRITABLE):
            self.machine.memory.octets[mfn << 12 : (mfn << 12) + len(data)] = data
        return self.guest.at(ARGUMENTS)

    # -- entries -------------------------------------------------------------------------------------------------------
    @rule(table=TABLE, slot=SLOT, frame=FRAME, flags=FLAGS, copies=st.sampled_from((1, 2, 40)))
    def store(self, table: int, slot: int, frame: int, flags: int, copies: int) -> None:
        """Into a frame that the guest could have mapped writable."""
        mfn, frames = self.frames[table], self.guest.frames
        if mfn >= self.machine.memory.total_frames or self.machine.memory.owner[mfn] != self.guest.domid:
            return
        if frames.type[mfn] in (NONE, WRITABLE) or not frames.type_count[mfn]:
            for number in range(copies):
                self.guest.words[(mfn << 9) + (slot + number) % 512] = self.frames[frame] << 12 | flags

    @rule(table=TABLE, slot=SLOT, frame=FRAME, flags=FLAGS, command=st.sampled_from((0, 2, 1, 3)))
    def mmu_update(self, table: int, slot: int, frame: int, flags: int, command: int) -> None:
        update = struct.pack("<QQ", self.frames[table] << 12 | slot << 3 | command, self.frames[frame] << 12 | flags)
        self._call("mmu_update", xen.HYPERVISOR_mmu_update, self._put(update), 1, 0, SELF)

    @rule(page=PAGE_OF_GUEST, frame=FRAME, flags=FLAGS, flush=st.sampled_from((0, 1, 2, 6)))
    def update_va_mapping(self, page: int, frame: int, flags: int, flush: int) -> None:
        self._call("update_va_mapping", xen.HYPERVISOR_update_va_mapping, self.guest.at(page), self.frames[frame] << 12 | flags, flush)

    @rule(page=st.sampled_from((*[47] * 30, *range(47))), slot=SLOT, frame=FRAME, flags=FLAGS, instruction=WRITES)
    def emulated_write(self, page: int, slot: int, frame: int, flags: int, instruction: bytes) -> None:
        """By the mapping that the guest has of one of its tables."""
        guest, code = self.guest, self.guest.mfns[CODE]
        if self.machine.memory.owner[code] != guest.domid or guest.frames.type[code] not in (NONE, WRITABLE):
            return
        self.machine.memory.octets[code << 12 : (code << 12) + len(instruction)] = instruction
        state = guest.vcpu.state
        state.rip, state.rcx, state.rax = guest.at(CODE), self.frames[frame] << 12 | flags, 0
        with self.machine.lock:
            done = page_table_writes.emulate(guest.vcpu, guest.at(page) + 8 * slot)
        self.totals.answers["emulated write", done] += 1

    # -- whole tables --------------------------------------------------------------------------------------------------
    def _extended(self, name: str, command: int, first: int, second: int = 0) -> None:
        operation = struct.pack("<IIQQ", command, 0, first, second)
        self._call(name, xen.HYPERVISOR_mmuext_op, self._put(operation), 1, 0, SELF)

    @rule(table=TABLE, level=LEVEL)
    def pin(self, table: int, level: int) -> None:
        self._extended("pin", xen.MMUEXT_PIN_L1_TABLE + level, self.frames[table])

    @rule(table=TABLE)
    def unpin(self, table: int) -> None:
        self._extended("unpin", xen.MMUEXT_UNPIN_TABLE, self.frames[table])

    @rule(table=TABLE, user=st.booleans())
    def new_root(self, table: int, user: bool) -> None:
        self._extended("new root", xen.MMUEXT_NEW_USER_BASEPTR if user else xen.MMUEXT_NEW_BASEPTR, self.frames[table])

    @rule()
    def recover(self) -> None:
        """A guest that has lost its arguments would do nothing any more."""
        guest = self.guest
        with self.machine.lock:
            try:
                for page in (ARGUMENTS, CODE):
                    guest_access.translate(guest.vcpu, guest.at(page), write=True)
            except guest_access.GuestFault:
                guest.map_again(guest.vcpu)
                self.frames[LOOSE : LOOSE + 4] = self._own_tables()

    @rule(frame=FRAME, source=FRAME, copies=st.booleans())
    def clear_or_copy(self, frame: int, source: int, copies: bool) -> None:
        command = xen.MMUEXT_COPY_PAGE if copies else xen.MMUEXT_CLEAR_PAGE
        self._extended("clear or copy", command, self.frames[frame], self.frames[source])

    # -- descriptor pages ------------------------------------------------------------------------------------------------
    @rule(pages=st.lists(FRAME, max_size=2))
    def set_gdt(self, pages: list[int]) -> None:
        where = self._put(struct.pack(f"<{len(pages)}Q", *(self.frames[page] for page in pages)))
        self._call("set_gdt", xen.HYPERVISOR_set_gdt, where, 512 * len(pages))

    @rule(table=TABLE, slot=SLOT, descriptor=st.sampled_from((0, 0x00CFFB000000FFFF, 0x00AF9A000000FFFF, 0x0000890000000067)))
    def update_descriptor(self, table: int, slot: int, descriptor: int) -> None:
        self._call("update_descriptor", xen.HYPERVISOR_update_descriptor, self.frames[table] << 12 | slot << 3, descriptor)

    # -- memory comes and goes -------------------------------------------------------------------------------------------
    def _reservation(self, name: str, command: int, extent: int) -> int | None:
        """One extent, whose list follows the structure."""
        where = self.guest.at(ARGUMENTS, 64)
        argument = self._put(struct.pack("<QQIIHxxxxxx24xQ", where, 1, 0, 0, SELF, extent))
        return self._call(name, xen.HYPERVISOR_memory_op, command, argument)

    @rule(frame=FRAME)
    def decrease_reservation(self, frame: int) -> None:
        self._reservation("decrease_reservation", memory_abi.XENMEM_decrease_reservation, self.frames[frame])

    @rule(place=st.integers(0, LOOSE - 1))
    def populate_physmap(self, place: int) -> None:
        """A new frame takes the place of a loose one, which stays wherever it is in use."""
        result = self._reservation("populate_physmap", memory_abi.XENMEM_populate_physmap, place)
        mfn = self.guest.mfns[ARGUMENTS]
        if result == 1 and self.machine.memory.owner[mfn] == self.guest.domid:
            self.frames[place] = self.machine.memory.words[(mfn << 9) + 8]

    # -- grants ----------------------------------------------------------------------------------------------------------
    @rule(reference=st.integers(8, 12), page=PAGE_OF_WINDOW, writable=st.booleans(), by_entry=st.booleans())
    def map_grant(self, reference: int, page: int, writable: bool, by_entry: bool) -> None:
        guest = self.guest
        flags = grants.GNTMAP_host_map | (0 if writable else grants.GNTMAP_readonly) | (grants.GNTMAP_contains_pte if by_entry else 0)
        where = guest.pte_address(WINDOW[page]) if by_entry else guest.at(WINDOW[page])
        operation = grants.gnttab_map_grant_ref(dom=self.giver.domid, ref=reference, flags=flags, host_addr=where)
        result = self._call("map_grant", xen.HYPERVISOR_grant_table_op, grants.GNTTABOP_map_grant_ref, self._put(bytes(operation)), 1)
        mfn = guest.mfns[ARGUMENTS]
        if result == 0 and self.machine.memory.owner[mfn] == guest.domid:
            start = mfn << 12
            answer = grants.gnttab_map_grant_ref.from_buffer_copy(self.machine.memory.octets[start : start + 32])
            if not answer.status:
                self.handles.append((answer.handle, page, by_entry))

    @rule(which=st.integers(0, 7), elsewhere=PAGE_OF_WINDOW, wrong=st.integers(0, 7))
    def unmap_grant(self, which: int, elsewhere: int, wrong: int) -> None:
        """Of eight times once with an address that the mapping is not at."""
        if not self.handles:
            return
        handle, page, by_entry = self.handles[which % len(self.handles)]
        page = WINDOW[elsewhere if wrong == 7 else page]
        where = self.guest.pte_address(page) if by_entry else self.guest.at(page)
        operation = grants.gnttab_unmap_grant_ref(handle=handle, host_addr=where)
        self._call("unmap_grant", xen.HYPERVISOR_grant_table_op, grants.GNTTABOP_unmap_grant_ref, self._put(bytes(operation)), 1)

    @invariant()
    def every_reference_is_counted(self) -> None:
        self.totals.steps += 1
        invariants.check(self.machine)

    def teardown(self) -> None:
        try:
            for domid in (self.guest.domid, self.giver.domid):
                self.machine.dom0.destroy_domain(domid)
                invariants.check(self.machine)
            assert self.machine.memory.free_frames == self.free
        finally:
            self.machine.close()


@pytest.mark.timeout(4 * 3600 if LONG else 600)
def test_random_edits(capsys: pytest.CaptureFixture[str]) -> None:
    totals = Totals()
    for seed in range(SEED, SEED + SEEDS):
        explore(type("PageTableEdits", (PageTableEdits,), {"totals": totals}), seed=seed, examples=20, steps=STEPS)
    succeeded = {name for (name, done), count in totals.answers.items() if done and count}
    assert succeeded == {name for name, _ in totals.answers}, f"some never succeed: {totals.answers}"
    if LONG:
        with capsys.disabled():
            print(f"\n{totals.answers.total()} edits, everything recounted {totals.steps} times: {dict(totals.answers)}")
