"""A hostile PVH guest: beside what all guests do it edits its physical memory, its parameters, and its local APICs."""

from __future__ import annotations

import ctypes
import struct
from typing import ClassVar

import numpy as np

from pyxen.abi import memory as memory_abi
from pyxen.abi import xen
from pyxen.abi.hvm import hvm_op as hvm_abi
from pyxen.abi.hvm import params
from pyxen.abi.hvm.hvm_vcpu import VCPU_HVM_MODE_32B, VCPU_HVM_MODE_64B, vcpu_hvm_context
from pyxen.abi.vcpu import VCPUOP_down, VCPUOP_initialise, VCPUOP_up
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.hvm.vcpu import HvmVcpu
from pyxen.hypervisor.hypervisor import Hypervisor
from tests.security.hostile_guest import ARGUMENT_PAGES, EDGES, WIDE_EDGES, Call, HostileGuest
from tests.unit.hypervisor.hvm_guest import SmallHvmDomain
from tests.unit.hypervisor.machine import MASK64, PAGE, SmallDomain

PAGES = 96
#: Guest frames without memory at the beginning, where something may be placed: just above RAM, and elsewhere.
EMPTY = (*range(PAGES, PAGES + 16), *range(0x40000, 0x40008), *range(0xFEFF8, 0xFF000))
#: Beyond the table's first size, at its end, behind it, and the local APIC's page.
FAR = (0xFEE00, (1 << 20) - 1, 1 << 20, (1 << 24) - 1, 1 << 24, (1 << 32) - 1, (1 << 40) - 1, (1 << 52) - 1, (1 << 64) - 1)
_MODES = (VCPU_HVM_MODE_64B, VCPU_HVM_MODE_32B)
_SPACES = (0, 1, 1, 2, 2, 2, 3, 4, 5)
_RESERVATIONS = (memory_abi.XENMEM_populate_physmap, memory_abi.XENMEM_decrease_reservation, memory_abi.XENMEM_increase_reservation)
_APIC_OFFSETS = (*range(0, 0x400, 0x10), *[0x300, 0x310] * 12, 0x320, 0x380, 0x3E0, 0xF0, 0xB0)


class HostilePvhGuest(HostileGuest):
    """Its paging is off, so linear addresses are guest physical ones."""

    NARROW: ClassVar[bool] = False
    CALLS: ClassVar[tuple[str, ...]] = (*HostileGuest.CALLS, "physical_map", "physical_map", "memory_op", "hvm_op")
    vcpu: HvmVcpu

    def __init__(self, hypervisor: Hypervisor, victim: SmallDomain, *, friend: int = 77, log: list[str] | None = None) -> None:
        self.guest = SmallHvmDomain(hypervisor, pages=PAGES, vcpus=2)
        super().__init__(self.guest, self.guest.vcpu, victim, friend=friend, log=log)
        self.vcpu.narrow_caller = self.NARROW
        self._frames = (
            tuple(range(ARGUMENT_PAGES, PAGES)),
            tuple(range(ARGUMENT_PAGES, PAGES)),
            tuple(range(PAGES)),
            EMPTY,
            (*EMPTY, *FAR),
            (victim.mfns[0], self.guest.mfns[0], self.guest.domain.shared_info >> 12),
        )

    def _address(self) -> int:
        kind = self.dice.randrange(12)
        offset = self.dice.choice((0, 0, 8, 16, 64, 128, 4, 1, PAGE - 8, PAGE - 4, PAGE - 1))
        if kind < 8:
            return self.dice.randrange(ARGUMENT_PAGES) * PAGE + offset
        if kind < 10:
            return (self._frame() << 12 & MASK64) + offset
        return self.dice.choice((*EDGES, *WIDE_EDGES))

    def _argument_address(self, page: int, offset: int) -> int:
        return page * PAGE + offset

    def _argument_page(self, page: int) -> int | None:
        return self.guest.container.physical_map.machine_address(page << 12, write=True)

    def _place_to_map(self) -> int:
        return self._frame() << 12 & MASK64

    # -- calls -----------------------------------------------------------------------------------------------------
    def memory_op(self) -> Call:
        dice = self.dice
        count = dice.choice((1, 0, 3, 10, 700))
        first = self._frame()
        extents = [first + index if dice.random() < 0.7 else self._frame() for index in range(count)]
        where = self._put(self._longs(extents))
        order, domid = dice.choice((0, 0, 0, 1, 4, 9, 10)), dice.choice(self._domids)
        reservation = memory_abi.memory_reservation(nr_extents=self._count(count), extent_order=order, domid=domid)
        reservation.extent_start = where
        command = dice.choice(_RESERVATIONS) | dice.choice((0, 0, 0, 1, self._value())) << 6
        return xen.HYPERVISOR_memory_op, (command & MASK64, self._put(self._bytes(reservation)))

    def physical_map(self) -> Call:
        """Add to it, in each way, and remove."""
        dice = self.dice
        kind, domid, space = dice.randrange(4), dice.choice((0x7FF0, 0x7FF0, 0x7FF0, dice.choice(self._domids))), dice.choice(_SPACES)
        index = dice.choice((0, 1, self._frame(), 1 << 31, 1 << 31 | 1, self._value())) & MASK64
        gfn = self._frame() & MASK64
        operation: ctypes.Structure
        if kind == 0:
            command, operation = memory_abi.XENMEM_remove_from_physmap, memory_abi.remove_from_physmap(domid=domid, gpfn=gfn)
        elif kind < 3:
            size = dice.choice((0, 1, 5, 600, 65535))
            command = memory_abi.XENMEM_add_to_physmap
            operation = memory_abi.add_to_physmap(domid=domid, size=size, space=space, idx=index, gpfn=gfn)
        else:
            count = dice.choice((1, 2, 20))
            indexes, gfns = (self._put(self._longs(self._frame() for _ in range(count))) for _ in range(2))
            command = memory_abi.XENMEM_add_to_physmap_batch
            operation = memory_abi.add_to_physmap_batch(domid=domid, space=space, size=self._count(count) & 0xFFFF)
            operation.idxs, operation.gpfns, operation.errs = indexes, gfns, self._address()
        return xen.HYPERVISOR_memory_op, (command, self._put(self._bytes(operation)))

    def hvm_op(self) -> Call:
        """Parameters and upcall vectors."""
        dice = self.dice
        if dice.random() < 0.2:
            vector = struct.pack("<IBxxx", dice.choice((0, 1, 2, self._value() & 0xFFFFFFFF)), dice.choice((0x20, 0xF3, 0, 15, 255)))
            return xen.HYPERVISOR_hvm_op, (hvm_abi.HVMOP_set_evtchn_upcall_vector, self._put(vector))
        index = dice.choice((dice.randrange(params.HVM_NR_PARAMS + 2), self._value() & 0xFFFFFFFF))
        value = dice.choice((0, 2 << 56 | 0xF3, 2 << 56 | 3, 1 << 56, self._value(), self._frame() & MASK64))
        parameter = struct.pack("<HxxIQ", dice.choice((0x7FF0, dice.choice(self._domids))), index, value)
        return xen.HYPERVISOR_hvm_op, (dice.choice((hvm_abi.HVMOP_set_param, hvm_abi.HVMOP_get_param)), self._put(parameter))

    def context(self) -> Call:
        dice = self.dice
        context = vcpu_hvm_context(mode=dice.choice(_MODES) if dice.random() < 0.9 else self._value() & 0xFFFFFFFF)
        if context.mode == VCPU_HVM_MODE_64B:
            wide = context.cpu_regs.x86_64
            wide.cr0, wide.cr4, wide.efer = dice.choice((0x80000001, self._value())), dice.choice((0x20, self._value())), 0x500
            wide.cr3, wide.rip, wide.rflags = self._frame() << 12 & MASK64, self._address(), dice.getrandbits(32)
        else:
            narrow = context.cpu_regs.x86_32
            narrow.cr0, narrow.cr4, narrow.efer = dice.choice((1, 0x80000001, dice.getrandbits(32))), dice.choice((0, 0x30)), 0
            narrow.cr3, narrow.eip, narrow.eflags = dice.getrandbits(20) << 12, dice.getrandbits(18), dice.getrandbits(32)
            narrow.cs_limit, narrow.cs_ar, narrow.ds_ar, narrow.ss_ar, narrow.es_ar, narrow.tr_ar = (
                dice.getrandbits(32),
                *dice.choice(((0xC9B, 0xC93, 0xC93, 0xC93, 0x8B), tuple(dice.getrandbits(16) for _ in range(5)))),
            )
        command = dice.choice((VCPUOP_initialise, VCPUOP_initialise, VCPUOP_up, VCPUOP_down))
        return xen.HYPERVISOR_vcpu_op, (command, 1, self._put(bytes(context)))

    # -- without a hypercall -----------------------------------------------------------------------------------------
    def recover(self) -> None:
        domain = self.guest.domain
        missing = [page for page in range(ARGUMENT_PAGES) if self._argument_page(page) is None]
        if missing and not domain.dying:
            self.guest.dom0.set_max_memory(domain.domid, max(domain.max_pages, domain.total_pages + len(missing)))
            try:
                self.guest.dom0.populate_guest_frames(domain.domid, np.array(missing, dtype=np.uint64))
            except HypercallError as refusal:
                self.log.append(f"d{domain.domid} stays without its arguments: {refusal}")

    def scribble(self) -> None:
        """Registers of a local APIC, by its page or as MSRs: interrupts to itself and the sibling, INIT and start-up among them, timers."""
        dice = self.dice
        vcpu = dice.choice(self.vcpu.siblings())
        offset = dice.choice(_APIC_OFFSETS)
        value = dice.choice((0, 0x4500, 0x4600, 0x4608, 0x8500, 0x40C500, 0x400, 0x1FF, dice.getrandbits(32)))
        with self.vcpu.hypervisor.lock:
            apic = vcpu.local_apic
            kind = dice.randrange(8)
            if kind < 4:
                apic.write(offset, value)
            elif kind < 6:
                apic.write_msr(0x800 + (offset >> 4), dice.choice((value, 1 << 32 | value, 2 << 32 | value, dice.getrandbits(64))))
            elif kind < 7:
                apic.set_base(0xFEE00000 | dice.choice((0x900, 0xD00, 0, 0x100, 0x800, 0xC00, dice.getrandbits(12))))
            else:
                apic.read(offset)
                apic.read_msr(0x800 + (offset >> 4))
            self.vcpu.was_reset = False


class HostileNarrowGuest(HostilePvhGuest):
    """Its kernel is 32-bit code."""

    NARROW = True
