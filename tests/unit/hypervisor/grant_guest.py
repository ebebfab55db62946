"""A small domain with a mapped grant table of its own, and the operations on it that guests make by hypercall."""

from __future__ import annotations

from ctypes import Structure, sizeof
from typing import TypeVar

from pyxen.abi import grant_table as abi
from pyxen.abi.xen import HYPERVISOR_grant_table_op, HYPERVISOR_update_va_mapping
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.page_tables import ADDRESS, PRESENT
from tests.unit.hypervisor.machine import SmallDomain

Operation = TypeVar("Operation", bound=Structure)
#: PFNs of a small domain that the tests use: arguments of hypercalls, pages to grant, and addresses to map at.
ARGUMENTS, GRANTED_PAGE, WINDOW = 0, 10, 30


class GrantGuest(SmallDomain):
    """Its grants are written by the hypervisor's view of the table's frames, as the guest would through its mapping."""

    @property
    def table(self) -> list[int]:
        return self.domain.grant_table.frames

    def op(self, command: int, *operations: Operation, count: int | None = None) -> int:
        """Run a list of operations; afterwards they hold what the hypervisor answered."""
        address = self.at(ARGUMENTS)
        self.write(address, b"".join(bytes(operation) for operation in operations))
        result = self.call(HYPERVISOR_grant_table_op, command, address, len(operations) if count is None else count)
        for index, operation in enumerate(operations):
            size = sizeof(operation)
            data = self.read(address + index * size, size)
            memoryview(operation).cast("B")[:] = data  # type: ignore[arg-type]
        return result

    # -- the granter's side ---------------------------------------------------------------------------------------------
    def grant(self, reference: int, domid: int, pfn: int = GRANTED_PAGE, flags: int = abi.GTF_permit_access, mfn: int | None = None) -> int:
        """Write an entry of either version. -> the MFN granted."""
        frame = self.mfns[pfn] if mfn is None else mfn
        self.set_entry(reference, flags | domid << 16, frame)
        return frame

    def set_entry(self, reference: int, header: int, body: int) -> None:
        if self.domain.grant_table.entries.version == 1:
            self.words[(self.table[reference >> 9] << 9) + (reference & 511)] = header | body << 32
        else:
            index = (self.table[reference >> 8] << 9) + (reference & 255) * 2
            self.words[index], self.words[index + 1] = header, body

    def entry(self, reference: int) -> tuple[int, int, int]:
        """(flags, domid, frame) of an entry."""
        entry = self.domain.grant_table.entries.read(reference)
        return entry.flags, entry.domid, entry.frame

    def marks(self, reference: int) -> int:
        """GTF_reading and GTF_writing."""
        return self.domain.grant_table.entries.status(reference)

    def set_version(self, version: int) -> int:
        return self.op(abi.GNTTABOP_set_version, abi.gnttab_set_version(version=version), count=1)

    # -- the mapper's side ----------------------------------------------------------------------------------------------
    def map(
        self, domid: int, reference: int, pfn: int = WINDOW, flags: int = abi.GNTMAP_host_map, address: int | None = None
    ) -> abi.gnttab_map_grant_ref:
        op = abi.gnttab_map_grant_ref(dom=domid, ref=reference, flags=flags, host_addr=self.at(pfn) if address is None else address)
        assert self.op(abi.GNTTABOP_map_grant_ref, op) == 0
        return op

    def unmap(self, handle: int, pfn: int = WINDOW, address: int | None = None, device: int = 0) -> int:
        op = abi.gnttab_unmap_grant_ref(handle=handle, host_addr=self.at(pfn) if address is None else address, dev_bus_addr=device)
        assert self.op(abi.GNTTABOP_unmap_grant_ref, op) == 0
        return int(op.status)

    def pte(self, pfn: int) -> int:
        return int(self.words[(self.l1 << 9) + pfn])

    def pte_address(self, pfn: int) -> int:
        """Machine address of the L1 entry of a page."""
        return (self.l1 << 12) + 8 * pfn

    def write_pte(self, pfn: int, value: int) -> int:
        return self.call(HYPERVISOR_update_va_mapping, self.at(pfn), value, 0)

    def mapped_frame(self, pfn: int) -> int:
        entry = self.pte(pfn)
        return (entry & ADDRESS) >> 12 if entry & PRESENT else 0

    def poke(self, pfn: int, data: bytes) -> None:
        """Write as the guest's kernel would; GuestFault where its page tables don't let it."""
        with self.hypervisor.lock:
            guest_access.write(self.vcpu, self.at(pfn), data)
