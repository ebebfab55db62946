"""A machine with the real engine, and small PV domains that tests drive from outside: no guest code runs in them.

A domain's memory is mapped linearly at ``BASE``, writable but for its page tables, so the tests can place arguments of hypercalls in it.
"""

from __future__ import annotations

import struct
import time

import numpy as np

from pyxen.engine.unicorn_engine import make_engine
from pyxen.hypervisor import guest_access, hypercall_table
from pyxen.hypervisor.dom0_interface import DomainInfo, GuestRegisters
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.frame_table import L4, NONE, WRITABLE
from pyxen.hypervisor.hypervisor import Hypervisor
from pyxen.hypervisor.page_tables import ACCESSED, DIRTY, PRESENT, RW, USER
from pyxen.hypervisor.preemption import Preempted
from pyxen.hypervisor.vcpu import Vcpu

BASE = 0x1_0000_0000
PAGE = 4096
TABLE_FLAGS = PRESENT | RW | USER | ACCESSED
LEAF_FLAGS = PRESENT | RW | USER | ACCESSED | DIRTY
MASK64 = (1 << 64) - 1
#: Pages used by the page tables of a small domain, at its end: L4, L3, L2, L1.
TABLES = 4


def new_machine(memory_bytes: int = 64 << 20) -> Hypervisor:
    return Hypervisor(make_engine, memory_bytes=memory_bytes, self_test=False)


class SmallDomain:
    """A domain of at most 512 pages and its vCPUs, never run. PFN i is mapped at ``BASE + i * PAGE``."""

    def __init__(self, hypervisor: Hypervisor, *, pages: int = 64, vcpus: int = 1, max_pages: int | None = None, **options: int) -> None:
        self.hypervisor = hypervisor
        self.dom0 = hypervisor.dom0
        self.domid = self.dom0.create_domain(kind="pv", handle=bytes(range(16)), max_vcpus=vcpus, **options)
        self.domain: Domain = hypervisor.domain(self.domid)
        self.dom0.set_max_memory(self.domid, pages + 64 if max_pages is None else max_pages)
        self.mfns: list[int] = self.dom0.populate_physmap(self.domid, pages).tolist()
        self.dom0.set_p2m(self.domid, np.array(self.mfns, dtype=np.uint64))
        self.frames = hypervisor.frames
        self.words = hypervisor.memory.words
        self.usable = pages - TABLES
        self.l4, self.l3, self.l2, self.l1 = self.mfns[-TABLES:]
        self._map()
        with hypervisor.lock:
            for vcpu in self.domain.vcpus:
                self.domain.address_space.new_kernel_root(vcpu, self.l4)
                vcpu.state.cr3 = vcpu.kernel_root

    def _map(self) -> None:
        """Fill the page tables: ``BASE`` has all pages, writable but for the tables."""
        words = self.words
        words[self.l4 << 9 | BASE >> 39 & 511] = self.l3 << 12 | TABLE_FLAGS
        words[self.l3 << 9 | BASE >> 30 & 511] = self.l2 << 12 | TABLE_FLAGS
        words[self.l2 << 9 | BASE >> 21 & 511] = self.l1 << 12 | TABLE_FLAGS
        owner, kinds = self.hypervisor.memory.owner, self.frames.type
        tables = (self.l4, self.l3, self.l2, self.l1)
        for pfn, mfn in enumerate(self.mfns):
            if owner[mfn] == self.domid:
                writable = mfn not in tables and kinds[mfn] in (NONE, WRITABLE)
                words[self.l1 << 9 | pfn] = mfn << 12 | (LEAF_FLAGS if writable else LEAF_FLAGS & ~RW)
        with self.hypervisor.lock:
            self.frames.pin(self.l4, self.domid, L4)

    def map_again(self, vcpu: Vcpu) -> None:
        """``vcpu`` gets new page tables of fresh frames, whatever has become of the old ones."""
        self.dom0.set_max_memory(self.domid, self.domain.total_pages + TABLES)
        self.l4, self.l3, self.l2, self.l1 = self.dom0.populate_physmap(self.domid, TABLES).tolist()
        self._map()
        with self.hypervisor.lock:
            self.domain.address_space.new_kernel_root(vcpu, self.l4)

    @property
    def vcpu(self) -> Vcpu:
        return self.domain.vcpus[0]

    @staticmethod
    def at(pfn: int, offset: int = 0) -> int:
        """Linear address."""
        return BASE + pfn * PAGE + offset

    def free_page(self) -> int:
        """A frame that nothing maps: its PFN is given up."""
        self.usable -= 1
        mfn = self.mfns[self.usable]
        with self.hypervisor.lock:
            self.hypervisor.page_tables.write_entry(self.domain, (self.l1 << 12) + 8 * self.usable, 0)
        return mfn

    def write(self, address: int, data: bytes) -> int:
        with self.hypervisor.lock:
            guest_access.write(self.vcpu, address, data)
        return address

    def read(self, address: int, size: int) -> bytes:
        with self.hypervisor.lock:
            return guest_access.read(self.vcpu, address, size)

    def put(self, form: str, *values: int, at: int | None = None) -> int:
        """Pack little-endian values into the domain's first page (or elsewhere). -> their linear address."""
        return self.write(self.at(0) if at is None else at, struct.pack("<" + form, *values))

    def get(self, form: str, at: int | None = None) -> tuple[int, ...]:
        return struct.unpack("<" + form, self.read(self.at(0) if at is None else at, struct.calcsize("<" + form)))

    def call(self, number: int, *arguments: int, vcpu: Vcpu | None = None) -> int:
        """A hypercall of the guest kernel, continued as often as it asks to be. Arguments are taken as registers take them."""
        registers = [value & MASK64 for value in arguments] + [0] * (6 - len(arguments))
        with self.hypervisor.lock:
            while True:
                try:
                    return hypercall_table.call(vcpu or self.vcpu, number, tuple(registers))
                except Preempted as continuation:
                    registers[: len(continuation.arguments)] = continuation.arguments

    def start(self, code: bytes, *, pfn: int = 1, stack_pfn: int = 3) -> None:
        """Run ``code``, placed at the beginning of a page, on the first vCPU."""
        self.write(self.at(pfn), code)
        with self.hypervisor.lock:
            self.frames.unpin(self.l4, self.domid)
        registers = GuestRegisters(rip=self.at(pfn), rsp=self.at(stack_pfn), cr3_mfn=self.l4)
        self.dom0.set_vcpu_context(self.domid, 0, registers)
        self.dom0.unpause_domain(self.domid)

    def wait_for_shutdown(self, seconds: float = 20) -> DomainInfo:
        end = time.monotonic() + seconds
        while not (info := self.dom0.domain_info(self.domid)).shutdown:
            assert time.monotonic() < end, "the guest goes on"
            time.sleep(0.002)
        return info

    def count(self, mfn: int) -> tuple[int, int]:
        """(general, typed) references."""
        return self.frames.count[mfn], self.frames.type_count[mfn]

    def destroy(self) -> None:
        self.dom0.destroy_domain(self.domid)
