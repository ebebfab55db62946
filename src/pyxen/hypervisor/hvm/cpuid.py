"""The CPUID policy of HVM domains: what the engine can do, and what the hypervisor adds to it (local APIC, Xen's leaves).

Shown for speed: that none of the speculation faults exists, so kernels need no separate page tables for user mode and no retpolines; and
ERMS, as to PV domains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.hypervisor.cpuid import ADDED_7_EBX, HVM_LEAF, CpuidPolicy, Leaf
from pyxen.hypervisor.hvm.p2m import ADDRESS_BITS

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


#: Leaf 1 ECX: MONITOR, VMX, SMX, EST, TM2, PDCM, PCID, XSAVE, OSXSAVE, AVX, F16C.
HIDDEN_1_ECX = _bits(3, 5, 6, 7, 8, 15, 17, 26, 27, 28, 29)
#: x2APIC, TSC deadline, hypervisor.
ADDED_1_ECX = _bits(21, 24, 31)
#: Leaf 1 EDX: VME, MCE, MCA, DS, ACPI, HTT, TM, PBE.
HIDDEN_1_EDX = _bits(1, 7, 14, 21, 22, 28, 29, 31)
#: Local APIC, MTRR, PAT.
ADDED_1_EDX = _bits(9, 12, 16)
#: Leaf 7 EBX: TSC_ADJUST, HLE, AVX2, INVPCID, RTM, MPX and the AVX-512 family.
HIDDEN_7_EBX = _bits(1, 4, 5, 10, 11, 14, 16, 17, 21, 26, 27, 28, 30, 31)
#: Leaf 7 EDX: IBRS and IBPB, STIBP, ARCH_CAPABILITIES, SSBD.
ADDED_7_EDX = _bits(26, 27, 29, 31)
HIDDEN_E1_ECX = _bits(1, 2, 3, 9, 10, 12, 13, 15, 16, 19, 22, 23, 24, 26, 28)
HIDDEN_E1_EDX = _bits(7, 14)

#: Leaf 7.2 EDX.
BHI_CONTROL = _bits(4)
#: The processor's frequency in MHz. Xen does not show it; without it Linux polls for a timer chip that is not there, 100,000 exits long.
FREQUENCY_LEAF = 0x16

HVM_IOMMU_MAPPINGS, HVM_VCPU_ID_PRESENT, HVM_DOMAIN_ID_PRESENT = 1 << 2, 1 << 3, 1 << 4
HYPERCALL_PAGES, HYPERCALL_MSR = 1, 0x40000000


class HvmCpuidPolicy(CpuidPolicy):
    """One per domain."""

    def query(self, leaf: int, subleaf: int, vcpu: Vcpu) -> Leaf:
        """EAX, EBX, ECX, EDX."""
        found = super().query(leaf, subleaf, vcpu)
        eax, ebx, ecx, edx = found
        if leaf == FREQUENCY_LEAF:
            return self._counter.khz // 1000, self._counter.khz // 1000, 0, 0
        if leaf == 0:
            return FREQUENCY_LEAF, ebx, ecx, edx
        if leaf == 1:
            return eax, ebx & 0x00FFFFFF | 2 * vcpu.vcpu_id << 24, ecx, edx & ~_bits(9) | self._apic_bit(vcpu)
        if leaf == HVM_LEAF and not subleaf:
            present = HVM_IOMMU_MAPPINGS | HVM_VCPU_ID_PRESENT | HVM_DOMAIN_ID_PRESENT
            return present, vcpu.vcpu_id, vcpu.domain.domid, 0
        return found

    @staticmethod
    def _apic_bit(vcpu: Vcpu) -> int:
        return _bits(9) if vcpu.local_apic_enabled else 0

    def _visible(self, leaf: int, subleaf: int, found: Leaf) -> Leaf:
        eax, ebx, ecx, edx = found
        if leaf == 1:
            return eax, ebx & 0xFF00FFFF | 1 << 16, ecx & ~HIDDEN_1_ECX | ADDED_1_ECX, edx & ~HIDDEN_1_EDX | ADDED_1_EDX
        if leaf == 7:
            if subleaf == 2:
                return 0, 0, 0, BHI_CONTROL
            return (2, ebx & ~HIDDEN_7_EBX | ADDED_7_EBX, 0, ADDED_7_EDX) if subleaf == 0 else (0, 0, 0, 0)
        if leaf == 0x80000001:
            return eax, ebx, ecx & ~HIDDEN_E1_ECX, edx & ~HIDDEN_E1_EDX
        if leaf == 0x80000008:
            return eax & 0xFF00 | ADDRESS_BITS, 0, 0, 0
        return super()._visible(leaf, subleaf, found)

    def _xen_leaf(self, index: int, subleaf: int) -> Leaf:
        if index == 2:
            return HYPERCALL_PAGES, HYPERCALL_MSR, 0, 0
        return super()._xen_leaf(index, subleaf)
