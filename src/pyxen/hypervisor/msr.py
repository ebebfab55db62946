"""Model-specific registers that a PV guest may read and write (Xen's pv/emul-priv-op.c and msr.c): a table, all others are #GP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.engine.interface import FS, GS, Dirty
from pyxen.hypervisor.guest_access import is_guest_address

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

MSR_EFER = 0xC0000080
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE = 0xC0000100, 0xC0000101, 0xC0000102
MSR_TSC_AUX = 0xC0000103
MSR_TSC = 0x10
MSR_PAT, MSR_PLATFORM_INFO, MSR_ARCH_CAPABILITIES, MSR_MISC_FEATURES = 0x277, 0xCE, 0x10A, 0x140
MSR_PLATFORM_ID, MSR_PATCH_LEVEL, MSR_PERF_STATUS, MSR_PERF_CONTROL = 0x17, 0x8B, 0x198, 0x199
MSR_MISC_ENABLE, MSR_PERF_CAPABILITIES = 0x1A0, 0x345
MSR_MPERF, MSR_APERF, MSR_THERM_CONTROL, MSR_ENERGY_PERF_BIAS = 0xE7, 0xE8, 0x19A, 0x1B0

#: What every PV guest reads.
CONSTANT = {
    MSR_EFER: 0xD01,  # SCE, LME, LMA, NXE
    MSR_PAT: 0x050100070406,  # Xen's PAT
    MSR_PLATFORM_INFO: 1 << 31,  # CPUID faulting is available
    MSR_ARCH_CAPABILITIES: 0,
    MSR_PLATFORM_ID: 0,
    MSR_PATCH_LEVEL: 0,
    MSR_PERF_STATUS: 0,
    MSR_PERF_CONTROL: 0,
    MSR_MISC_ENABLE: 1 | 1 << 11 | 1 << 12 | 1 << 23,  # fast strings; BTS and PEBS are unavailable, no task priority messages
    MSR_PERF_CAPABILITIES: 0,
}
#: Writes that Xen accepts and forgets.
IGNORED_WRITES = frozenset(
    (MSR_PATCH_LEVEL, 0x79, MSR_PERF_CONTROL, MSR_MISC_ENABLE, MSR_MPERF, MSR_APERF, MSR_THERM_CONTROL, MSR_ENERGY_PERF_BIAS)
)


def read(vcpu: Vcpu, register: int) -> int | None:
    """The register's value, or None for #GP."""
    state = vcpu.state
    if register == MSR_FS_BASE:
        return int(state.segs[FS].base)
    if register == MSR_GS_BASE:
        return int(state.segs[GS].base)
    if register == MSR_KERNEL_GS_BASE:
        return vcpu.gs_base_other
    if register == MSR_TSC_AUX:
        return int(state.tsc_aux)
    if register == MSR_TSC:
        return vcpu.domain.counter.read(vcpu)
    if register == MSR_MISC_FEATURES:
        return int(vcpu.cpuid_faulting)
    return CONSTANT.get(register)


def write(vcpu: Vcpu, register: int, value: int) -> bool:
    """Write it. False for #GP."""
    state = vcpu.state
    if register in (MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE):
        if not is_guest_address(value):
            return False
        if register == MSR_KERNEL_GS_BASE:
            vcpu.gs_base_other = value
        else:
            state.segs[FS if register == MSR_FS_BASE else GS].base = value
            state.dirty |= Dirty.SEGMENTS
        return True
    if register == MSR_TSC_AUX:
        if value >> 32:
            return False
        state.tsc_aux = value
        state.dirty |= Dirty.MSRS
        return True
    if register == MSR_EFER:
        return value == CONSTANT[MSR_EFER]
    if register == MSR_MISC_FEATURES:
        if value > 1:
            return False
        vcpu.cpuid_faulting = bool(value)
        return True
    return register in IGNORED_WRITES
