"""Model-specific registers of an HVM guest: one table, all others are #GP (Xen's arch/x86/msr.c and hvm/hvm.c)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.engine.interface import FS, GS, Dirty
from pyxen.hypervisor.hvm import hypercall_page
from pyxen.hypervisor.hvm.p2m import ADDRESS_BITS

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

Reader = Callable[["HvmVcpu", int], int | None]
Writer = Callable[["HvmVcpu", int, int], bool]

MSR_TSC, MSR_APIC_BASE, MSR_TSC_DEADLINE = 0x10, 0x1B, 0x6E0
MSR_PLATFORM_ID, MSR_SPEC_CTRL, MSR_PRED_CMD, MSR_PATCH_LEVEL = 0x17, 0x48, 0x49, 0x8B
MSR_MTRR_CAP, MSR_ARCH_CAPABILITIES, MSR_MISC_FEATURES = 0xFE, 0x10A, 0x140
MSR_SYSENTER_CS, MSR_SYSENTER_ESP, MSR_SYSENTER_EIP = 0x174, 0x175, 0x176
MSR_MISC_ENABLE, MSR_PAT, MSR_MTRR_DEFAULT = 0x1A0, 0x277, 0x2FF
MSR_EFER, MSR_STAR, MSR_LSTAR, MSR_CSTAR, MSR_SFMASK = range(0xC0000080, 0xC0000085)
MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, MSR_TSC_AUX = range(0xC0000100, 0xC0000104)
MSR_HYPERCALL_PAGE = 0x40000000
X2APIC = range(0x800, 0xC00)
MTRR_FIXED = (0x250, 0x258, 0x259, *range(0x268, 0x270))
MTRR_VARIABLE = range(0x200, 0x210)

EFER_LMA, EFER_LME = 1 << 10, 1 << 8
EFER_KNOWN = 0xD01  #: SCE, LME, LMA, NXE
CR0_PG = 1 << 31
#: 8 variable ranges, fixed ranges, write-combining; enabled, write-back by default, as libxc leaves it to PVH guests.
MTRR_CAP, MTRR_DEFAULT = 0x508, 0x806
PAT_RESET = 0x0007040600070406
#: Nothing speculates here, so none of what these bits deny exists: RDCL, SSB, MDS, page-size-change MC, TAA, the SBDR family, FB_CLEAR's,
#: BHI, PBRSB, GDS, RFDS, ITS; and IBRS, once on, is on for all.
ARCH_CAPABILITIES = sum(1 << bit for bit in (0, 1, 4, 5, 6, 8, 13, 14, 15, 20, 24, 26, 27, 62))
#: IBRS, STIBP, SSBD, BHI_DIS_S.
SPEC_CTRL_KNOWN = 0x407


def _canonical(value: int) -> bool:
    return value < 1 << 47 or value >= (1 << 64) - (1 << 47)


def _constant(value: int) -> Reader:
    return lambda vcpu, register: value


def _ignored(vcpu: HvmVcpu, register: int, value: int) -> bool:
    return True


def _refused(vcpu: HvmVcpu, register: int, value: int) -> bool:
    return False


def _member(name: str, valid: Callable[[int], bool]) -> tuple[Reader, Writer]:
    """A register that lives in the engine's state block."""

    def read(vcpu: HvmVcpu, register: int) -> int:
        return int(getattr(vcpu.state, name))

    def write(vcpu: HvmVcpu, register: int, value: int) -> bool:
        if not valid(value):
            return False
        setattr(vcpu.state, name, value)
        vcpu.state.dirty |= Dirty.MSRS
        return True

    return read, write


def _base(segment: int) -> tuple[Reader, Writer]:
    def read(vcpu: HvmVcpu, register: int) -> int:
        return int(vcpu.state.segs[segment].base)

    def write(vcpu: HvmVcpu, register: int, value: int) -> bool:
        if not _canonical(value):
            return False
        vcpu.state.segs[segment].base = value
        vcpu.state.dirty |= Dirty.SEGMENTS
        return True

    return read, write


def _plain(initial: int, valid: Callable[[int], bool]) -> tuple[Reader, Writer]:
    """A register that keeps what is written and does nothing."""

    def read(vcpu: HvmVcpu, register: int) -> int:
        return vcpu.plain_msrs.get(register, initial)

    def write(vcpu: HvmVcpu, register: int, value: int) -> bool:
        if not valid(value):
            return False
        vcpu.plain_msrs[register] = value
        return True

    return read, write


def _write_efer(vcpu: HvmVcpu, register: int, value: int) -> bool:
    state = vcpu.state
    if value & ~EFER_KNOWN or (state.cr0 & CR0_PG and (value ^ state.efer) & EFER_LME):
        return False
    state.efer = value & ~EFER_LMA | state.efer & EFER_LMA
    state.dirty |= Dirty.CONTROL | Dirty.FLUSH_TLB
    return True


def _read_tsc(vcpu: HvmVcpu, register: int) -> int:
    return vcpu.domain.counter.read(vcpu)


def _write_tsc(vcpu: HvmVcpu, register: int, value: int) -> bool:
    vcpu.domain.counter.write(vcpu, value)
    return True


def _write_tsc_deadline(vcpu: HvmVcpu, register: int, value: int) -> bool:
    vcpu.local_apic.set_tsc_deadline(value)
    return True


def _memory_types(count: int) -> Callable[[int], bool]:
    """Octets that are memory types: 0, 1, 4, 5, 6, and 7 for the PAT."""
    known = {0, 1, 4, 5, 6} | ({7} if count else set())
    return lambda value: all(octet in known for octet in value.to_bytes(8, "little"))


def _is_range_base(value: int) -> bool:
    """MTRR: a memory type, and an address of a page."""
    return value & 0xFF in (0, 1, 4, 5, 6) and not value & 0xF00 and not value >> ADDRESS_BITS


def _is_range_mask(value: int) -> bool:
    """MTRR: bit 11 says whether the range is valid."""
    return not value & 0x7FF and not value >> ADDRESS_BITS


_EVERY: Callable[[int], bool] = lambda value: True  # noqa: E731
_NARROW: Callable[[int], bool] = lambda value: not value >> 32  # noqa: E731

_TABLE: dict[int, tuple[Reader, Writer]] = {
    MSR_TSC: (_read_tsc, _write_tsc),
    MSR_PLATFORM_ID: (_constant(0), _refused),
    MSR_APIC_BASE: (lambda vcpu, register: vcpu.local_apic.base, lambda vcpu, register, value: vcpu.local_apic.set_base(value)),
    MSR_SPEC_CTRL: _plain(0, lambda value: not value & ~SPEC_CTRL_KNOWN),
    MSR_PRED_CMD: (lambda vcpu, register: None, lambda vcpu, register, value: not value & ~1),
    MSR_PATCH_LEVEL: (_constant(0), _ignored),
    MSR_MTRR_CAP: (_constant(MTRR_CAP), _refused),
    MSR_ARCH_CAPABILITIES: (_constant(ARCH_CAPABILITIES), _refused),
    MSR_MISC_FEATURES: (_constant(0), lambda vcpu, register, value: not value),
    MSR_SYSENTER_CS: _member("sysenter_cs", _NARROW),
    MSR_SYSENTER_ESP: _member("sysenter_esp", _canonical),
    MSR_SYSENTER_EIP: _member("sysenter_eip", _canonical),
    MSR_MISC_ENABLE: (_constant(1 | 1 << 11 | 1 << 12), _ignored),  # fast strings; BTS and PEBS are unavailable
    MSR_PAT: _plain(PAT_RESET, _memory_types(1)),
    MSR_MTRR_DEFAULT: _plain(MTRR_DEFAULT, lambda value: not value & ~0xCFF and value & 0xFF in (0, 1, 4, 5, 6)),
    **dict.fromkeys(MTRR_FIXED, _plain(0x0606060606060606, _memory_types(0))),
    **dict.fromkeys(MTRR_VARIABLE[::2], _plain(0, _is_range_base)),
    **dict.fromkeys(MTRR_VARIABLE[1::2], _plain(0, _is_range_mask)),
    MSR_TSC_DEADLINE: (lambda vcpu, register: vcpu.local_apic.timer.deadline_tsc, _write_tsc_deadline),
    MSR_EFER: (lambda vcpu, register: int(vcpu.state.efer), _write_efer),
    MSR_STAR: _member("star", _EVERY),
    MSR_LSTAR: _member("lstar", _canonical),
    MSR_CSTAR: _member("cstar", _canonical),
    MSR_SFMASK: _member("sfmask", _NARROW),
    MSR_FS_BASE: _base(FS),
    MSR_GS_BASE: _base(GS),
    MSR_KERNEL_GS_BASE: _member("kernel_gs_base", _canonical),
    MSR_TSC_AUX: _member("tsc_aux", _NARROW),
    MSR_HYPERCALL_PAGE: (lambda vcpu, register: 0, lambda vcpu, register, value: hypercall_page.place(vcpu, value)),
    **dict.fromkeys(
        X2APIC,
        (
            lambda vcpu, register: vcpu.local_apic.read_msr(register),
            lambda vcpu, register, value: vcpu.local_apic.write_msr(register, value),
        ),
    ),
}


def read(vcpu: HvmVcpu, register: int) -> int | None:
    """The register's value, None for #GP."""
    entry = _TABLE.get(register)
    return entry[0](vcpu, register) if entry is not None else None


def write(vcpu: HvmVcpu, register: int, value: int) -> bool:
    """Write it. False for #GP."""
    entry = _TABLE.get(register)
    return entry is not None and entry[1](vcpu, register, value)
