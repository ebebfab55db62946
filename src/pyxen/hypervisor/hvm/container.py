"""What an HVM domain has as a whole: its physical memory, its parameters, its memory map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.abi.hvm import params
from pyxen.hypervisor.gate import GateMember
from pyxen.hypervisor.hvm.p2m import PhysicalMap
from pyxen.hypervisor.shared_page import NARROW, WIDE

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

#: Vectors below are exceptions.
FIRST_CALLBACK_VECTOR = 16


class HvmContainer:
    """``parameters`` is indexed by HVM_PARAM_*; ``memory_map`` holds (address, size, type) as XENMEM_memory_map answers it."""

    callback_vector = GateMember()  #: of event upcalls for all vCPUs, 0 for none

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.physical_map = PhysicalMap(domain)
        self.parameters = [0] * params.HVM_NR_PARAMS
        self.memory_map: list[tuple[int, int, int]] = []
        self.gate = domain.gate

    def latch_width(self, vcpu: HvmVcpu) -> None:
        """The shared info page is that of 32- or 64-bit code from now on, as what ``vcpu`` executes is. As on Xen only the wall clock is
        brought to its new place."""
        self._domain.shared_layout = WIDE if vcpu.in_64_bit_code else NARROW
        self.gate.narrow = self._domain.shared_layout.narrow
        self._domain.hypervisor.guest_time.write_wall_clock(self._domain)

    def set_callback(self, untrusted_via: int) -> None:
        """HVM_PARAM_CALLBACK_IRQ. Only vectors: there is no interrupt controller for the other kinds. A vector that is none of an interrupt
        means no upcalls, as on Xen."""
        self.callback_vector = 0
        if untrusted_via >> 56 == params.HVM_PARAM_CALLBACK_TYPE_VECTOR and untrusted_via & 0xFF >= FIRST_CALLBACK_VECTOR:
            self.callback_vector = untrusted_via & 0xFF
