"""The CPUID policy of PV domains: what the engine can do, less what a PV guest must not see, plus Xen's own leaves.

Sources: arch-x86/cpuid.h for the leaves at 0x40000000; Xen's featureset for what PV guests get. Shown for speed: ERMS, since the engine
carries out REP MOVS and REP STOS by the page (native/pyxen_string.c).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyxen.engine.interface import Engine

if TYPE_CHECKING:
    from pyxen.hypervisor.guest_counter import GuestCounter
    from pyxen.hypervisor.vcpu import Vcpu

Leaf = tuple[int, int, int, int]
ZERO: Leaf = (0, 0, 0, 0)
MASK32 = (1 << 32) - 1
XEN_LEAVES = 0x40000000
XEN_SIGNATURE = struct.unpack("<3I", b"XenVMMXenVMM")
LAST_XEN_LEAF = 5
XEN_VERSION = 4 << 16 | 17
TIME_LEAF = XEN_LEAVES + 3
HVM_LEAF = XEN_LEAVES + 4
STRUCTURED_LEAF = 7  #: of features; the only one with subleaves, besides the two below
#: Those that are answered anew each time: one with the time, one with other subleaves that native code does not know.
VARIABLE_LEAVES = frozenset((TIME_LEAF, HVM_LEAF))
POWER_LEAF, INVARIANT_COUNTER = 0x80000007, 1 << 8
FEAT1_MMU_PT_UPDATE_PRESERVE_AD = 1


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


#: Leaf 1 ECX: MONITOR, VMX, SMX, EST, TM2, PDCM, PCID, x2APIC, TSC deadline, XSAVE, OSXSAVE, AVX.
HIDDEN_1_ECX = _bits(3, 5, 6, 7, 8, 15, 17, 21, 24, 26, 27, 28)
HYPERVISOR_BIT = _bits(31)
#: Leaf 1 EDX: VME, PSE, MCE, SEP, MTRR, PGE, MCA, PSE36, CLFLUSH-independent DS, ACPI, HTT, TM, PBE.
HIDDEN_1_EDX = _bits(1, 3, 7, 11, 12, 13, 14, 17, 21, 22, 28, 29, 31)
#: Leaf 7 EBX: FSGSBASE, TSC_ADJUST, HLE, AVX2, SMEP, INVPCID, RTM, MPX, SMAP and the AVX-512 family.
HIDDEN_7_EBX = _bits(0, 1, 4, 5, 7, 10, 11, 14, 16, 17, 20, 21, 26, 27, 28, 30, 31)
#: ERMS.
ADDED_7_EBX = _bits(9)
#: Leaf 0x80000001: SVM, OSVW, IBS, SKINIT... / the Intel copy of leaf 1's hidden bits, 1 GiB pages.
HIDDEN_E1_ECX = _bits(1, 2, 3, 9, 10, 12, 13, 15, 16, 19, 22, 23, 24, 26, 28)
HIDDEN_E1_EDX = _bits(1, 3, 7, 12, 13, 14, 17, 26)
MAX_BASIC_LEAF = 0xD
MAX_EXTENDED_LEAF = 0x80000008
#: Leaves that name hardware the guest does not have: cache and MWAIT details, power, topology, performance, XSAVE.
EMPTY_LEAVES = frozenset((3, 4, 5, 6, 8, 9, 0xA, 0xB, 0xC, 0xD))


class CpuidPolicy:
    """One per domain."""

    def __init__(self, engine: Engine, counter: GuestCounter, machine_address_bits: int) -> None:
        self._engine = engine
        self._counter = counter
        self._machine_address_bits = machine_address_bits
        self._cache: dict[tuple[int, int], Leaf] = {}

    def query(self, leaf: int, subleaf: int, vcpu: Vcpu) -> Leaf:
        """EAX, EBX, ECX, EDX."""
        if leaf == TIME_LEAF:
            return self._counter.cpuid_leaf(subleaf)
        if leaf == POWER_LEAF:
            return 0, 0, 0, INVARIANT_COUNTER if self._counter.invariant else 0
        key = (leaf, subleaf if leaf == STRUCTURED_LEAF else 0)
        found = self._cache.get(key)
        if found is None:
            found = self._compute(*key)
            if found != ZERO:  # a guest could ask for four thousand million empty leaves
                self._cache[key] = found
        if leaf == 1:
            eax, ebx, ecx, edx = found
            return eax, ebx & 0x00FFFFFF | vcpu.vcpu_id << 25, ecx, edx
        return found

    def _compute(self, leaf: int, subleaf: int) -> Leaf:
        if XEN_LEAVES <= leaf <= XEN_LEAVES + 0xFF:
            return self._xen_leaf(leaf - XEN_LEAVES, subleaf)
        if leaf in EMPTY_LEAVES or MAX_BASIC_LEAF < leaf < 0x80000000 or leaf > MAX_EXTENDED_LEAF:
            return ZERO
        return self._visible(leaf, subleaf, self._engine.cpuid(leaf, subleaf))

    def _visible(self, leaf: int, subleaf: int, found: Leaf) -> Leaf:
        """What the guest sees of a leaf of the engine's."""
        eax, ebx, ecx, edx = found
        if leaf == 0:
            return min(eax, MAX_BASIC_LEAF), ebx, ecx, edx
        if leaf == 1:
            return eax, ebx & 0xFF00FFFF | 1 << 16, ecx & ~HIDDEN_1_ECX & MASK32 | HYPERVISOR_BIT, edx & ~HIDDEN_1_EDX
        if leaf == STRUCTURED_LEAF:
            return (0, ebx & ~HIDDEN_7_EBX | ADDED_7_EBX, 0, 0) if subleaf == 0 else ZERO
        if leaf == 0x80000000:
            return min(eax, MAX_EXTENDED_LEAF), ebx, ecx, edx
        if leaf == 0x80000001:
            return eax, ebx, ecx & ~HIDDEN_E1_ECX, edx & ~HIDDEN_E1_EDX
        if leaf == 0x80000008:
            return eax & 0xFFFF, 0, 0, 0
        return eax, ebx, ecx, edx

    def _xen_leaf(self, index: int, subleaf: int) -> Leaf:
        if index == 0:
            return XEN_LEAVES + LAST_XEN_LEAF, XEN_SIGNATURE[0], XEN_SIGNATURE[1], XEN_SIGNATURE[2]
        if index == 1:
            return XEN_VERSION, 0, 0, 0
        if index == 2:
            return 1, XEN_LEAVES, FEAT1_MMU_PT_UPDATE_PRESERVE_AD, 0
        if index == 5:
            return 0, self._machine_address_bits, 0, 0
        return ZERO


def execute(vcpu: Vcpu) -> None:
    """CPUID: the domain's policy for the leaf in EAX, ECX. The caller moves RIP."""
    state = vcpu.state
    leaf, subleaf = state.rax & MASK32, state.rcx & MASK32
    answer = vcpu.domain.cpuid.query(leaf, subleaf, vcpu)
    if leaf not in VARIABLE_LEAVES:
        vcpu.known_cpuid.remember(leaf, subleaf if leaf == STRUCTURED_LEAF else 0, answer)
    state.rax, state.rbx, state.rcx, state.rdx = answer
