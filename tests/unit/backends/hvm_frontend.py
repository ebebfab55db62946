"""The guest of a frontend, as a PVH domain: what it names are its own frame numbers, which are no machine frames."""

from __future__ import annotations

from pyxen.abi import grant_table as abi
from tests.unit.hypervisor.hvm_guest import PAGE, SmallHvmDomain


class HvmGrantGuest(SmallHvmDomain):
    """Has of ``GrantGuest`` what frontends use."""

    @staticmethod
    def at(pfn: int) -> int:
        """Address of a page; the first vCPU has no paging."""
        return pfn * PAGE

    def grant(self, reference: int, domid: int, pfn: int, flags: int = abi.GTF_permit_access) -> None:
        """Write an entry of version 1."""
        self.set_entry(reference, flags | domid << 16, pfn)

    def set_entry(self, reference: int, header: int, body: int) -> None:
        frame = self.domain.grant_table.frames[reference >> 9]
        self.hypervisor.memory.words[(frame << 9) + (reference & 511)] = header | body << 32

    def destroy(self) -> None:
        self.dom0.destroy_domain(self.domid)
