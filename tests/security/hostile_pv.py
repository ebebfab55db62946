"""A hostile PV guest: beside what all guests do it edits page tables and descriptors."""

from __future__ import annotations

import struct
from typing import ClassVar

from pyxen.abi import xen
from pyxen.abi.arch_x86_64 import VGCF_in_kernel, vcpu_guest_context, xen_pfn_to_cr3
from pyxen.abi.vcpu import VCPUOP_down, VCPUOP_initialise, VCPUOP_up
from pyxen.hypervisor import guest_access, mmu_ops, page_table_writes
from pyxen.hypervisor.frame_table import NONE, WRITABLE
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import NX, PRESENT, RW
from tests.security.hostile_guest import ARGUMENT_PAGES, EDGES, WIDE_EDGES, Call, HostileGuest, wait_for_turn
from tests.unit.hypervisor.machine import BASE, MASK64, PAGE, SmallDomain

#: Frames that nothing maps at the beginning, so that they can become tables.
LOOSE_FRAMES = 24
ENTRY_FLAGS = (0, PRESENT, PRESENT | RW, 0x27, 0x25, 0x67, 0x65, 0x67 | NX, 0x167, 0xE7, 0x7F, 0x67 | 1 << 62, 0x67 | 1 << 58)
#: mov, xchg, lock cmpxchg, btr, or: from RCX to what the test says that the instruction's address is.
TABLE_WRITES = (b"\x48\x89\x0b", b"\x48\x87\x0b", b"\xf0\x48\x0f\xb1\x0b", b"\x48\x0f\xba\x33\x01", b"\x48\x09\x0b", b"\x89\x0b")
CODE_PAGE = ARGUMENT_PAGES
_EXTENDED = tuple(mmu_ops._OPERATIONS)


class HostilePvGuest(HostileGuest):
    """``sibling``: act as the second vCPU of that guest."""

    CALLS: ClassVar[tuple[str, ...]] = (
        *HostileGuest.CALLS,
        "mmu_update",
        "mmu_update",
        "mmuext_op",
        "mmuext_op",
        "update_va_mapping",
        "descriptors",
    )

    def __init__(
        self,
        hypervisor: Hypervisor,
        victim: SmallDomain,
        *,
        friend: int = 77,
        log: list[str] | None = None,
        sibling: HostilePvGuest | None = None,
    ) -> None:
        self.guest = sibling.guest if sibling else SmallDomain(hypervisor, pages=96, vcpus=2)
        super().__init__(self.guest, self.guest.domain.vcpus[1 if sibling else 0], victim, friend=friend, log=log)
        self.loose: list[int] = sibling.loose if sibling else [self.guest.free_page() for _ in range(LOOSE_FRAMES)]
        guest, memory = self.guest, hypervisor.memory
        self._frames = (
            tuple(guest.mfns[ARGUMENT_PAGES : guest.usable]),
            tuple(self.loose),
            tuple(self.loose),
            (guest.l1, guest.l2, guest.l3, guest.l4),
            (guest.domain.shared_info >> 12, *guest.domain.grant_table.frames),
            (victim.mfns[0], victim.l1, victim.l4, victim.domain.shared_info >> 12),
            (0, 1, hypervisor.gdt_frame, memory.total_frames - 1, memory.total_frames, (1 << 40) - 1, (1 << 52) - 1),
        )

    def _address(self) -> int:
        """Mostly of mapped memory."""
        kind = self.dice.randrange(12)
        offset = self.dice.choice((0, 0, 8, 16, 64, 128, 4, 1, PAGE - 8, PAGE - 4, PAGE - 1))
        if kind < 8:
            return BASE + self.dice.randrange(ARGUMENT_PAGES) * PAGE + offset
        if kind == 8:
            return BASE + self.dice.randrange(520) * PAGE + offset
        if kind == 9:
            return self.dice.choice((0xFFFF_8000_0000_0000, 0xFFFF_8200_0000_0000, 0xFFFF_8800_0000_0000)) + offset
        return self.dice.choice((*EDGES, *WIDE_EDGES))

    def _argument_address(self, page: int, offset: int) -> int:
        return BASE + page * PAGE + offset

    def _argument_page(self, page: int) -> int | None:
        # By machine address: the guest may have lost the mapping.
        mfn = self.guest.mfns[page]
        ours = self.guest.hypervisor.memory.owner[mfn] == self.guest.domid and self.guest.frames.type[mfn] in (NONE, WRITABLE)
        return mfn << 12 if ours else None

    def _place_to_map(self) -> int:
        """An address that nothing is mapped at, or the machine address of its L1 entry."""
        if self.dice.random() < 0.3:
            return (self.guest.l1 << 12) + 8 * self.dice.randrange(ARGUMENT_PAGES, 512)
        return self.guest.at(self.dice.randrange(self.guest.usable, 500))

    def _entry(self) -> int:
        return self._frame() << 12 & MASK64 | self.dice.choice(ENTRY_FLAGS)

    def _descriptor(self) -> int:
        """Often one of the ordinary ones."""
        if self.dice.random() < 0.7:
            return self.dice.choice((0, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AF9A000000FFFF, 0x00008C0000000000, 0x0000890000000067))
        return self.dice.getrandbits(64)

    # -- calls -----------------------------------------------------------------------------------------------------
    def mmu_update(self) -> Call:
        count = self.dice.choice((1, 2, 5, 20))
        updates = bytearray()
        for _ in range(count):
            command = self.dice.choice((0, 0, 0, 1, 2, 3, 4))
            pointer = self._frame() << 12 & MASK64 | self.dice.choice((self.dice.randrange(512) * 8, 256 * 8, 260 * 8, 4)) | command
            value = self._entry() if command != 1 else self._value()
            if self.dice.random() < 0.1:  # an entry that names its own table
                value = pointer & ~0xFFF | value & 0xFFF
            updates += struct.pack("<2Q", pointer, value)
        return xen.HYPERVISOR_mmu_update, (self._put(bytes(updates)), self._count(count), self._done(), self._foreign())

    def mmuext_op(self) -> Call:
        count = self.dice.choice((1, 1, 3))
        operations = bytearray()
        for _ in range(count):
            command = self.dice.choice(_EXTENDED) if self.dice.random() < 0.95 else self._value() & 0xFFFFFFFF
            first = self._frame() if self.dice.random() < 0.8 else self._address()
            second = self.dice.choice((self._frame(), self._address(), self._value()))
            operations += struct.pack("<IIQQ", command, self.dice.getrandbits(32), first, second)
        return xen.HYPERVISOR_mmuext_op, (self._put(bytes(operations)), self._count(count), self._done(), self._foreign())

    def update_va_mapping(self) -> Call:
        address = BASE + self.dice.randrange(ARGUMENT_PAGES, 512) * PAGE if self.dice.random() < 0.9 else self._address()
        return xen.HYPERVISOR_update_va_mapping, (address, self._entry(), self.dice.choice((0, 1, 2, 5, 6, self._address() & ~3 | 1)))

    def descriptors(self) -> Call:
        if self.dice.random() < 0.4:
            return xen.HYPERVISOR_update_descriptor, (self._frame() << 12 & MASK64 | self.dice.randrange(512) * 8, self._descriptor())
        if self.dice.random() < 0.3:
            traps = b"".join(struct.pack("<BBHIQ", self._value() & 255, self._value() & 255, 0, 0, self._address()) for _ in range(5))
            return xen.HYPERVISOR_set_trap_table, (self._put(traps + bytes(16)),)
        pages = self.dice.choice((0, 1, 2, 14, 15))
        frames = self._put(struct.pack(f"<{pages}Q", *(self._frame() for _ in range(pages))))
        return xen.HYPERVISOR_set_gdt, (frames, self.dice.choice((pages * 512, 512, 1, 0, 7168, 7169, self._value())))

    def context(self) -> Call:
        """VCPUOP_initialise of the second vCPU."""
        context = vcpu_guest_context()
        context.flags = VGCF_in_kernel if self.dice.random() < 0.9 else self._value()
        context.user_regs.rip = context.event_callback_eip = BASE
        context.user_regs.cs, context.user_regs.ss, context.user_regs.ds = (self.dice.getrandbits(16) for _ in range(3))
        context.gdt_ents = self.dice.choice((0, 512, 1024, 7168, self._value()))
        for index in range(14):
            context.gdt_frames[index] = self._frame()
        context.ldt_base, context.ldt_ents = self._address() & ~0xFFF, self.dice.choice((0, 512, 8192, self._value()))
        context.ctrlreg[3] = xen_pfn_to_cr3(self.dice.choice((self.guest.l4, self._frame())))
        context.ctrlreg[1] = xen_pfn_to_cr3(self.dice.choice((0, self.guest.l4, self._frame())))
        context.fs_base = self._address()
        context.vm_assist = self._value()
        command = self.dice.choice((VCPUOP_initialise, VCPUOP_initialise, VCPUOP_up, VCPUOP_down))
        return xen.HYPERVISOR_vcpu_op, (command, 1, self._put(bytes(context)))

    def memory_op(self) -> Call:
        count = self.dice.choice((0, 1, 3, 10, 700))
        extents = self._put(struct.pack(f"<{count}Q", *(self._frame() for _ in range(count))))
        reservation = struct.pack(
            "<QQIIHxxxxxx", extents, self._count(count), self.dice.choice((0, 0, 0, 1, 9, 10)), 0, self.dice.choice(self._domids)
        )
        command = self.dice.choice((0, 1, 1, 6)) | (self.dice.choice((0, 0, 0, 1, self._value())) << 6)
        return xen.HYPERVISOR_memory_op, (command & MASK64, self._put(reservation))

    # -- without a hypercall -----------------------------------------------------------------------------------------
    def _scribble_on_tables(self) -> None:
        """Fill a frame that is a table of no kind now with entries, so that the next pin has something to validate."""
        memory, frames = self.guest.hypervisor.memory, self.guest.frames
        mfn = self.dice.choice(self.loose)
        if memory.owner[mfn] == self.guest.domid and (frames.type[mfn] in (NONE, WRITABLE) or not frames.type_count[mfn]):
            for _ in range(self.dice.choice((1, 4, 40))):
                slot = self.dice.choice((self.dice.randrange(512), 0, 255, 256, 260, 271, 272, 511))
                self.guest.words[(mfn << 9) + slot] = self._entry()

    def _write_table(self) -> None:
        """The kernel writes to one of its tables through the mapping it has of it, which is emulated if it may be."""
        guest, dice = self.guest, self.dice
        code = guest.mfns[CODE_PAGE] << 12
        if guest.hypervisor.memory.owner[guest.mfns[CODE_PAGE]] != guest.domid or guest.frames.type[guest.mfns[CODE_PAGE]] != WRITABLE:
            return
        instruction = dice.choice(TABLE_WRITES)
        guest.hypervisor.memory.octets[code : code + len(instruction)] = instruction
        where = guest.at(dice.choice((guest.mfns.index(guest.l1), dice.randrange(len(guest.mfns)))) if guest.l1 in guest.mfns else 1)
        state = self.vcpu.state
        state.rip, state.rcx, state.rax = guest.at(CODE_PAGE), self._entry(), dice.choice((0, self._entry()))
        page_table_writes.emulate(self.vcpu, where + 8 * dice.randrange(512) + dice.choice((0, 0, 0, 4, 1)))

    def recover(self) -> None:
        guest = self.guest
        with guest.hypervisor.lock:
            wait_for_turn(self.vcpu)
            if not self.vcpu.kernel_mode:  # an iret in a multicall
                self.vcpu.toggle_mode()
            try:
                for page in range(0, ARGUMENT_PAGES, 3):
                    guest_access.translate(self.vcpu, guest.at(page), write=True)
            except guest_access.GuestFault:
                guest.map_again(self.vcpu)

    def scribble(self) -> None:
        """Random edits of page tables, by a write and by what a write leads to."""
        with self.guest.hypervisor.lock:
            wait_for_turn(self.vcpu)
            self._scribble_on_tables()
            self._write_table()
