"""A guest that makes random hypercalls, chosen so that many of them get past the first checks."""

from __future__ import annotations

import ctypes
import errno
import random
import struct
from collections import Counter
from collections.abc import Callable

from pyxen.abi import xen
from pyxen.abi.arch_x86_64 import VGCF_in_kernel, vcpu_guest_context, xen_pfn_to_cr3
from pyxen.abi.event_channel import (
    EVTCHNOP_alloc_unbound,
    EVTCHNOP_bind_interdomain,
    EVTCHNOP_bind_vcpu,
    EVTCHNOP_bind_virq,
    EVTCHNOP_status,
)
from pyxen.abi.grant_table import (
    GNTTABOP_cache_flush,
    GNTTABOP_copy,
    GNTTABOP_get_status_frames,
    GNTTABOP_map_grant_ref,
    GNTTABOP_set_version,
    GNTTABOP_setup_table,
    GNTTABOP_swap_grant_ref,
    GNTTABOP_transfer,
    GNTTABOP_unmap_and_replace,
    GNTTABOP_unmap_grant_ref,
    gnttab_copy,
    gnttab_get_status_frames,
    gnttab_map_grant_ref,
    gnttab_setup_table,
    gnttab_swap_grant_ref,
    gnttab_transfer,
    gnttab_unmap_and_replace,
    gnttab_unmap_grant_ref,
)
from pyxen.abi.vcpu import VCPUOP_down, VCPUOP_initialise, VCPUOP_up
from pyxen.hypervisor import (
    event_channel_op,
    grant_table_op,
    guest_access,
    hypercall_table,
    memory_op,
    mmu_ops,
    page_table_writes,
    sched_op,
    vcpu_op,
    xen_version,
)
from pyxen.hypervisor.frame_table import NONE, WRITABLE
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import NX, PRESENT, RW
from pyxen.hypervisor.preemption import Preempted
from pyxen.hypervisor.vcpu import Vcpu
from tests.unit.hypervisor.machine import BASE, MASK64, PAGE, SmallDomain

#: The pages that hold arguments; the guest never gives these frames away on purpose.
ARGUMENT_PAGES = 8
#: Frames that nothing maps at the beginning, so that they can become tables.
LOOSE_FRAMES = 24
#: A hypercall that wants to be continued more often is left unfinished, as when a vCPU is destroyed.
MOST_CONTINUATIONS = 40

EDGES = (0, 1, 2, 3, 4, 7, 8, 255, 511, 512, 513, 4095, 4096, 0x7FEF, 0x7FF0, 0x7FF2, 0xFFFF)
WIDE_EDGES = (1 << 31, (1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 47, (1 << 47) - 1, 1 << 62, 1 << 63, MASK64, MASK64 - 7, MASK64 - PAGE)

ENTRY_FLAGS = (0, PRESENT, PRESENT | RW, 0x27, 0x25, 0x67, 0x65, 0x67 | NX, 0x167, 0xE7, 0x7F, 0x67 | 1 << 62, 0x67 | 1 << 58)
#: mov, xchg, lock cmpxchg, btr, or: from RCX to what the test says that the instruction's address is.
TABLE_WRITES = (b"\x48\x89\x0b", b"\x48\x87\x0b", b"\xf0\x48\x0f\xb1\x0b", b"\x48\x0f\xba\x33\x01", b"\x48\x09\x0b", b"\x89\x0b")
CODE_PAGE = ARGUMENT_PAGES

_COMMANDS: dict[int, tuple[int, ...]] = {
    xen.HYPERVISOR_event_channel_op: tuple(event_channel_op._OPERATIONS),
    xen.HYPERVISOR_sched_op: tuple(sched_op._OPERATIONS),
    xen.HYPERVISOR_vcpu_op: tuple(vcpu_op._OPERATIONS),
    xen.HYPERVISOR_grant_table_op: (*grant_table_op._QUERIES, *grant_table_op._LISTS, GNTTABOP_cache_flush),
    xen.HYPERVISOR_memory_op: tuple(memory_op._OPERATIONS),
    xen.HYPERVISOR_xen_version: tuple(xen_version._OPERATIONS),
    xen.HYPERVISOR_callback_op: (0, 1),
    xen.HYPERVISOR_physdev_op: tuple(range(32)),
    xen.HYPERVISOR_nmi_op: (0, 1),
    xen.HYPERVISOR_console_io: (0, 1),
    xen.HYPERVISOR_vm_assist: (0, 1),
    xen.HYPERVISOR_set_segment_base: (0, 1, 2, 3),
    xen.HYPERVISOR_set_debugreg: tuple(range(9)),
    xen.HYPERVISOR_get_debugreg: tuple(range(9)),
}
#: Grant references in use.
REFERENCES = 12
_GRANT_STRUCTURES: dict[int, type[ctypes.Structure]] = {
    GNTTABOP_map_grant_ref: gnttab_map_grant_ref,
    GNTTABOP_unmap_grant_ref: gnttab_unmap_grant_ref,
    GNTTABOP_unmap_and_replace: gnttab_unmap_and_replace,
    GNTTABOP_copy: gnttab_copy,
    GNTTABOP_transfer: gnttab_transfer,
    GNTTABOP_swap_grant_ref: gnttab_swap_grant_ref,
    GNTTABOP_setup_table: gnttab_setup_table,
    GNTTABOP_get_status_frames: gnttab_get_status_frames,
}
_EXTENDED = tuple(mmu_ops._OPERATIONS)


class HostileGuest:
    """``log`` has the calls made, for a failure's report; guests that share one list have their calls in order. ``friend`` is the domain id
    of another hostile guest, with which it trades grants. ``sibling``: act as the second vCPU of that guest."""

    def __init__(
        self,
        hypervisor: Hypervisor,
        victim: SmallDomain,
        dice: random.Random,
        *,
        friend: int = 77,
        log: list[str] | None = None,
        sibling: HostileGuest | None = None,
    ) -> None:
        self.guest = sibling.guest if sibling else SmallDomain(hypervisor, pages=96, vcpus=2)
        self.vcpu = self.guest.domain.vcpus[1 if sibling else 0]
        self.dice = dice
        self.loose: list[int] = sibling.loose if sibling else [self.guest.free_page() for _ in range(LOOSE_FRAMES)]
        self.log: list[str] = [] if log is None else log
        self.friend = friend
        self.results: Counter[str] = Counter()
        guest, memory = self.guest, hypervisor.memory
        self._frames: tuple[tuple[int, ...], ...] = (
            tuple(guest.mfns[ARGUMENT_PAGES : guest.usable]),
            tuple(self.loose),
            tuple(self.loose),
            (guest.l1, guest.l2, guest.l3, guest.l4),
            (guest.domain.shared_info >> 12, *guest.domain.grant_table.frames),
            (victim.mfns[0], victim.l1, victim.l4, victim.domain.shared_info >> 12),
            (0, 1, hypervisor.gdt_frame, memory.total_frames - 1, memory.total_frames, (1 << 40) - 1, (1 << 52) - 1),
        )
        self._domids = (0x7FF0, 0x7FF0, guest.domid, 0, victim.domid, 77, 0x7FF2, 0x7FF4)
        self._calls: tuple[Callable[[], tuple[int, tuple[int, ...]]], ...] = (
            self._mmu_update,
            self._mmu_update,
            self._mmuext_op,
            self._mmuext_op,
            self._update_va_mapping,
            self._descriptors,
            self._context,
            self._event_channel_op,
            self._event_channel_op,
            self._command,
            self._command,
            self._command,
            self._memory_op,
            self._grants,
            self._grants,
            self._multicall,
            self._anything,
        )

    # -- values ----------------------------------------------------------------------------------------------------
    def _mfn(self) -> int:
        return self.dice.choice(self.dice.choice(self._frames))

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

    def _value(self) -> int:
        kind = self.dice.randrange(10)
        if kind < 4:
            return self.dice.randrange(12)
        if kind < 5:
            return self.dice.choice(EDGES)
        if kind < 6:
            return self.dice.choice(WIDE_EDGES)
        if kind < 7:
            return self._mfn()
        if kind < 8:
            return self._address()
        if kind < 9:
            return self.dice.choice(self._domids)
        return self.dice.getrandbits(64)

    def _entry(self) -> int:
        return self._mfn() << 12 & MASK64 | self.dice.choice(ENTRY_FLAGS)

    def _descriptor(self) -> int:
        """Often one of the ordinary ones."""
        if self.dice.random() < 0.7:
            return self.dice.choice((0, 0x00CFFB000000FFFF, 0x00CFF3000000FFFF, 0x00AF9A000000FFFF, 0x00008C0000000000, 0x0000890000000067))
        return self.dice.getrandbits(64)

    def _put(self, data: bytes) -> int:
        """Place an argument; now and then where it crosses a page, or nowhere. -> its address."""
        address = BASE + self.dice.randrange(ARGUMENT_PAGES - 1) * PAGE + self.dice.choice((0, 0, 64, 1024, PAGE - 16, PAGE - 4))
        for index in range(0, len(data), PAGE):
            # By machine address: the guest may have lost the mapping.
            first = (address - BASE) // PAGE + index // PAGE
            if first >= ARGUMENT_PAGES - 1:
                break
            self._store((address - BASE) % PAGE, first, data[index : index + PAGE])
        return self._address() if self.dice.random() < 0.03 else address

    def _store(self, offset: int, pfn: int, data: bytes) -> None:
        memory, mfns, domid = self.guest.hypervisor.memory, self.guest.mfns, self.guest.domid
        for page, part in ((pfn, data[: PAGE - offset]), (pfn + 1, data[PAGE - offset :])):
            mfn = mfns[page]
            writable = memory.owner[mfn] == domid and self.guest.frames.type[mfn] in (0, 6)
            if part and writable:
                start = (mfn << 12) + (offset if page == pfn else 0)
                memory.octets[start : start + len(part)] = part

    # -- calls -----------------------------------------------------------------------------------------------------
    def _mmu_update(self) -> tuple[int, tuple[int, ...]]:
        count = self.dice.choice((1, 2, 5, 20))
        updates = bytearray()
        for _ in range(count):
            command = self.dice.choice((0, 0, 0, 1, 2, 3, 4))
            pointer = self._mfn() << 12 & MASK64 | self.dice.choice((self.dice.randrange(512) * 8, 256 * 8, 260 * 8, 4)) | command
            value = self._entry() if command != 1 else self._value()
            if self.dice.random() < 0.1:  # an entry that names its own table
                value = pointer & ~0xFFF | value & 0xFFF
            updates += struct.pack("<2Q", pointer, value)
        return xen.HYPERVISOR_mmu_update, (self._put(bytes(updates)), self._count(count), self._done(), self._foreign())

    def _mmuext_op(self) -> tuple[int, tuple[int, ...]]:
        count = self.dice.choice((1, 1, 3))
        operations = bytearray()
        for _ in range(count):
            command = self.dice.choice(_EXTENDED) if self.dice.random() < 0.95 else self._value() & 0xFFFFFFFF
            first = self._mfn() if self.dice.random() < 0.8 else self._address()
            second = self.dice.choice((self._mfn(), self._address(), self._value()))
            operations += struct.pack("<IIQQ", command, self.dice.getrandbits(32), first, second)
        return xen.HYPERVISOR_mmuext_op, (self._put(bytes(operations)), self._count(count), self._done(), self._foreign())

    def _update_va_mapping(self) -> tuple[int, tuple[int, ...]]:
        address = BASE + self.dice.randrange(ARGUMENT_PAGES, 512) * PAGE if self.dice.random() < 0.9 else self._address()
        return xen.HYPERVISOR_update_va_mapping, (address, self._entry(), self.dice.choice((0, 1, 2, 5, 6, self._address() & ~3 | 1)))

    def _descriptors(self) -> tuple[int, tuple[int, ...]]:
        if self.dice.random() < 0.4:
            return xen.HYPERVISOR_update_descriptor, (self._mfn() << 12 & MASK64 | self.dice.randrange(512) * 8, self._descriptor())
        if self.dice.random() < 0.3:
            traps = b"".join(struct.pack("<BBHIQ", self._value() & 255, self._value() & 255, 0, 0, self._address()) for _ in range(5))
            return xen.HYPERVISOR_set_trap_table, (self._put(traps + bytes(16)),)
        pages = self.dice.choice((0, 1, 2, 14, 15))
        frames = self._put(struct.pack(f"<{pages}Q", *(self._mfn() for _ in range(pages))))
        return xen.HYPERVISOR_set_gdt, (frames, self.dice.choice((pages * 512, 512, 1, 0, 7168, 7169, self._value())))

    def _command(self) -> tuple[int, tuple[int, ...]]:
        """One of the hypercalls with sub-commands and a structure."""
        number = self.dice.choice(tuple(_COMMANDS))
        command = self.dice.choice(_COMMANDS[number]) if self.dice.random() < 0.95 else self._value()
        structure = self._put(self._structure())
        if number in (xen.HYPERVISOR_vcpu_op, xen.HYPERVISOR_console_io):
            return number, (command, self.dice.choice((0, 1, 1, self._value())), structure)
        if number in (xen.HYPERVISOR_vm_assist, xen.HYPERVISOR_set_segment_base, xen.HYPERVISOR_set_debugreg):
            return number, (command, self._value())
        return number, (command, structure if self.dice.random() < 0.95 else self._value(), self.dice.choice((1, 1, 1, self._value())))

    def _context(self) -> tuple[int, tuple[int, ...]]:
        """VCPUOP_initialise of the second vCPU."""
        context = vcpu_guest_context()
        context.flags = VGCF_in_kernel if self.dice.random() < 0.9 else self._value()
        context.user_regs.rip = context.event_callback_eip = BASE
        context.user_regs.cs, context.user_regs.ss, context.user_regs.ds = (self.dice.getrandbits(16) for _ in range(3))
        context.gdt_ents = self.dice.choice((0, 512, 1024, 7168, self._value()))
        for index in range(14):
            context.gdt_frames[index] = self._mfn()
        context.ldt_base, context.ldt_ents = self._address() & ~0xFFF, self.dice.choice((0, 512, 8192, self._value()))
        context.ctrlreg[3] = xen_pfn_to_cr3(self.dice.choice((self.guest.l4, self._mfn())))
        context.ctrlreg[1] = xen_pfn_to_cr3(self.dice.choice((0, self.guest.l4, self._mfn())))
        context.fs_base = self._address()
        context.vm_assist = self._value()
        command = self.dice.choice((VCPUOP_initialise, VCPUOP_initialise, VCPUOP_up, VCPUOP_down))
        return xen.HYPERVISOR_vcpu_op, (command, 1, self._put(bytes(context)))

    def _event_channel_op(self) -> tuple[int, tuple[int, ...]]:
        """Ports, domain ids and vCPUs where they belong."""
        command = self.dice.choice(_COMMANDS[xen.HYPERVISOR_event_channel_op])
        port, domid = self.dice.randrange(12), self.dice.choice(self._domids)
        fields = {
            EVTCHNOP_alloc_unbound: struct.pack("<HHI", self.dice.choice((0x7FF0, domid)), domid, 0),
            EVTCHNOP_bind_interdomain: struct.pack("<HHII", domid, 0, port, 0),
            EVTCHNOP_bind_virq: struct.pack("<III", self.dice.randrange(26), self.dice.choice((0, 0, 1, 2)), 0),
            EVTCHNOP_bind_vcpu: struct.pack("<II", port, self.dice.randrange(3)),
            EVTCHNOP_status: struct.pack("<HHI16x", self.dice.choice((0x7FF0, domid)), 0, port),
        }
        return xen.HYPERVISOR_event_channel_op, (command, self._put(fields.get(command, struct.pack("<I12x", port))))

    def _memory_op(self) -> tuple[int, tuple[int, ...]]:
        count = self.dice.choice((0, 1, 3, 10, 700))
        extents = self._put(struct.pack(f"<{count}Q", *(self._mfn() for _ in range(count))))
        reservation = struct.pack(
            "<QQIIHxxxxxx", extents, self._count(count), self.dice.choice((0, 0, 0, 1, 9, 10)), 0, self.dice.choice(self._domids)
        )
        command = self.dice.choice((0, 1, 1, 6)) | (self.dice.choice((0, 0, 0, 1, self._value())) << 6)
        return xen.HYPERVISOR_memory_op, (command & MASK64, self._put(reservation))

    def _scribble_on_grants(self) -> None:
        """Write entries into its own table, as a guest can at any time."""
        guest, dice = self.guest, self.dice
        for table in guest.domain.grant_table.frames[:1]:
            for _ in range(4):
                reference = dice.randrange(REFERENCES)
                flags = dice.choice((1, 1, 1, 1, 1, 1, 0, 2, 3, 5, 0x101, dice.getrandbits(16)))
                domid = dice.choice((*[self.friend] * 6, guest.domid, 0, 77))
                mfn = dice.choice(guest.mfns[ARGUMENT_PAGES:]) if dice.random() < 0.8 else self._mfn()
                if dice.random() < 0.7:
                    guest.words[(table << 9) + reference] = flags | domid << 16 | (mfn & 0xFFFFFFFF) << 32
                else:  # as of version 2
                    guest.words[(table << 9) + 2 * reference] = flags | domid << 16 | dice.getrandbits(32) << 32
                    guest.words[(table << 9) + 2 * reference + 1] = mfn

    def _grants(self) -> tuple[int, tuple[int, ...]]:
        self._scribble_on_grants()
        dice = self.dice
        command = dice.choice(tuple(_GRANT_STRUCTURES)) if dice.random() < 0.9 else GNTTABOP_set_version
        if command == GNTTABOP_set_version:
            return xen.HYPERVISOR_grant_table_op, (command, self._put(struct.pack("<I", dice.choice((1, 2, 2, 3)))), 1)
        count = dice.choice((1, 1, 2, 5))
        operations = b"".join(bytes(self._grant_operation(_GRANT_STRUCTURES[command])) for _ in range(count))
        return xen.HYPERVISOR_grant_table_op, (command, self._put(operations), self._count(count))

    def _grant_operation(self, layout: type[ctypes.Structure]) -> ctypes.Structure:
        """Each field by its name, with a value that could be meant."""
        dice, operation = self.dice, layout()
        where = self.guest.at(dice.randrange(self.guest.usable, 500))
        if dice.random() < 0.3:
            where = (self.guest.l1 << 12) + 8 * dice.randrange(ARGUMENT_PAGES, 512)
        values = {
            "host_addr": where if dice.random() < 0.8 else self._address(),
            "new_addr": dice.choice((0, where, self._address())),
            "dev_bus_addr": dice.choice((0, self._mfn() << 12 & MASK64)),
            "flags": dice.choice((2, 2, 2, 6, 6, 18, 22, 3, 1, 7, dice.getrandbits(20)))
            if layout is not gnttab_copy
            else dice.randrange(4),
            "handle": dice.randrange(12),
            "mfn": self._mfn(),
            "len": dice.choice((0, 8, 4096, 4097, 1)),
            "nr_frames": dice.choice((0, 1, 2, 64, 65, self._value() & 0xFFFFFFFF)),
            "frame_list": self._address(),
        }
        for field, *_ in layout._fields_:
            if field in ("dom", "domid"):
                setattr(operation, field, dice.choice((*[self.friend] * 6, 0x7FF0, self.guest.domid, dice.choice(self._domids))))
            elif field in ("ref", "ref_a", "ref_b"):
                setattr(operation, field, dice.randrange(REFERENCES) if dice.random() < 0.95 else self._value() & 0xFFFFFFFF)
            elif field in values:
                setattr(operation, field, values[field])
        if isinstance(operation, gnttab_copy):
            for end, bit in ((operation.source, 1), (operation.dest, 2)):
                by_reference = operation.flags & bit
                end.u.gmfn = dice.randrange(REFERENCES) if by_reference else self._mfn()
                end.domid = self.friend if by_reference else 0x7FF0
                end.offset = dice.choice((0, 8, 4095, 4096))
        return operation

    def _multicall(self) -> tuple[int, tuple[int, ...]]:
        count = self.dice.choice((1, 4))
        entries = bytearray()
        for _ in range(count):
            number, arguments = self.dice.choice(self._calls)()
            entries += struct.pack("<8Q", number, 0, *arguments, *[0] * (6 - len(arguments)))
        return xen.HYPERVISOR_multicall, (self._put(bytes(entries)), self._count(count))

    def _anything(self) -> tuple[int, tuple[int, ...]]:
        numbers = [entry.number for entry in hypercall_table.HYPERCALLS]
        number = self.dice.choice(numbers) if self.dice.random() < 0.9 else self._value()
        return number, tuple(self._value() for _ in range(6))

    def _structure(self) -> bytes:
        """Fields of 16, 32 and 64 bits with values that could be meant."""
        size = self.dice.choice((2, 4, 4, 4, 8, 8))
        form = {2: "H", 4: "I", 8: "Q"}[size]
        return b"".join(struct.pack("<" + form, self._value() & (1 << 8 * size) - 1) for _ in range(64 // size))

    def _count(self, count: int) -> int:
        return count if self.dice.random() < 0.9 else self.dice.choice((0, count + 600, 1 << 31 | count, (1 << 31) - 1, self._value()))

    def _done(self) -> int:
        return 0 if self.dice.random() < 0.6 else self._address()

    def _foreign(self) -> int:
        return (
            0x7FF0 if self.dice.random() < 0.9 else self.dice.choice((*self._domids, (self.guest.domid + 1) << 16 | 0x7FF0, self._value()))
        )

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

    def _recover(self) -> None:
        """A guest that has lost the memory with its arguments would only read -EFAULT from now on."""
        guest = self.guest
        with guest.hypervisor.lock:
            wait_for_turn(self.vcpu)
            try:
                for page in range(0, ARGUMENT_PAGES, 3):
                    guest_access.translate(self.vcpu, guest.at(page), write=True)
            except guest_access.GuestFault:
                guest.map_again(self.vcpu)

    # -- making them -------------------------------------------------------------------------------------------------
    def edit_tables(self) -> None:
        """Random edits of page tables, by a write and by what a write leads to."""
        with self.guest.hypervisor.lock:
            wait_for_turn(self.vcpu)
            self._scribble_on_tables()
            self._write_table()

    def act(self) -> None:
        """One random hypercall; between two, now and then, edits of page tables."""
        if self.dice.random() < 0.2:
            self.edit_tables()
        number, arguments = self.dice.choice(self._calls)()
        self._recover()
        name = hypercall_table.TABLE[number].name if number in hypercall_table.TABLE else number
        self.log.append(f"d{self.guest.domid}v{self.vcpu.vcpu_id}: {name}{tuple(map(hex, arguments))}")
        self.results[_kind(make_hypercall(self.vcpu, number, arguments))] += 1


def _kind(result: int | None) -> str:
    if result is None:
        return "unfinished"
    return "done" if result >= 0 else errno.errorcode.get(-result, str(result))


def wait_for_turn(vcpu: Vcpu) -> None:
    """As ``execution`` does: while long work on a domain gives others the lock, its own vCPUs wait. Lock held."""
    while vcpu.domain.exclusive:
        vcpu.domain.exclusive_done.wait()


def make_hypercall(vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> int | None:
    """With the hypervisor's lock, and continued within reason. -> the result, None if it was left unfinished."""
    registers = [*arguments, *[0] * (6 - len(arguments))]
    for _ in range(MOST_CONTINUATIONS):
        with vcpu.hypervisor.lock:
            wait_for_turn(vcpu)
            try:
                return hypercall_table.call(vcpu, number, tuple(registers))
            except Preempted as continuation:
                registers[: len(continuation.arguments)] = continuation.arguments
    return None
