"""A virtual CPU of an HVM domain: ring 0, an IDT of its own, a local APIC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.engine.interface import CS, VirtualCpu
from pyxen.hypervisor.gate import GateMember
from pyxen.hypervisor.hvm.guest_paging import machine_address
from pyxen.hypervisor.hvm.local_apic import ENABLED, LocalApic
from pyxen.hypervisor.vcpu import Vcpu

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hvm.container import HvmContainer

EFER_LMA = 1 << 10
CODE_LONG = 1 << 21  #: of a code segment's attributes


class HvmVcpu(Vcpu):
    """See the module's text. What ``Vcpu`` has for PV alone (trap table, roots, callbacks) stays unused."""

    local_apic: LocalApic
    is_hvm = True
    hypercall_length = 3
    upcall_vector = GateMember()  #: HVMOP_set_evtchn_upcall_vector; 0: the domain's callback vector

    def __init__(self, domain: Domain, vcpu_id: int, cpu: VirtualCpu, info: int, container: HvmContainer) -> None:
        super().__init__(domain, vcpu_id, cpu, info)
        self.gate.is_hvm = True
        self.container = container
        #: Registers that only keep what the guest wrote; see ``msr``.
        self.plain_msrs: dict[int, int] = {}
        #: An INIT came while its thread was between the guest and the handler of the exit, which is void then.
        self.was_reset = False
        self.local_apic: LocalApic = LocalApic(self)

    def siblings(self) -> list[HvmVcpu]:
        """All vCPUs of its domain, itself included."""
        return [vcpu for vcpu in self.domain.vcpus if isinstance(vcpu, HvmVcpu)]

    @property
    def in_64_bit_code(self) -> bool:
        """Whether it executes such; not in compatibility mode, whose hypercalls are those of 32-bit code."""
        return bool(self.state.efer & EFER_LMA and self.state.segs[CS].attributes & CODE_LONG)

    def machine_address(self, address: int, *, write: bool) -> int | None:
        """Of the octet at a linear address, by the guest's own page tables."""
        return machine_address(self, self.container.physical_map, address, write=write)

    @property
    def local_apic_enabled(self) -> bool:  # type: ignore[override]
        """Whether CPUID shows a local APIC."""
        return bool(self.local_apic.base & ENABLED)

    def event_upcall(self) -> None:
        """evtchn_upcall_pending was just set."""
        if self.upcall_vector:
            self.local_apic.request(self.upcall_vector)
        self.attend()

    def stop_timers(self) -> None:
        """Cancel everything that could still fire for this vCPU."""
        super().stop_timers()
        self.local_apic.timer.stop()
