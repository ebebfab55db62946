"""Debug registers of a PV guest (HYPERVISOR_set_debugreg, get_debugreg, mov dr; Xen's traps.c: set_debugreg, do_get_debugreg)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.engine.interface import Dirty
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.guest_access import is_guest_address

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

DR6_DEFAULT = 0xFFFF0FF0
DR6_WRITABLE = 0xE00F
DR7_DEFAULT = 0x400
DR7_RESERVED_ZERO = ~0xFFFF27FF & 0xFFFF_FFFF
DR7_GENERAL_DETECT = 1 << 13
CR4_DE = 8
DR6_SINGLE_STEP = 1 << 14


def _index(vcpu: Vcpu, register: int) -> int:
    """DR4 and DR5 are DR6 and DR7 unless CR4.DE is set. ENODEV, also for other numbers."""
    if register in (4, 5):
        if vcpu.cr4 & CR4_DE:
            raise HypercallError(errno.ENODEV, f"DR{register} with CR4.DE set")
        return register + 2
    if not 0 <= register <= 7:
        raise HypercallError(errno.ENODEV, f"no debug register {register}")
    return register


def get(vcpu: Vcpu, register: int) -> int:
    """The guest's view."""
    index = _index(vcpu, register)
    value: int = vcpu.state.dr[index]
    return value


def set_register(vcpu: Vcpu, register: int, untrusted: int) -> None:
    """EINVAL for upper bits of DR6 and DR7;
    EPERM for a breakpoint address in Xen's range, for general detect, and for I/O breakpoints without CR4.DE."""
    index = _index(vcpu, register)
    if index < 4:
        if not is_guest_address(untrusted):
            raise HypercallError(errno.EPERM, f"breakpoint at {untrusted:#x}")
        value = untrusted
    elif untrusted >> 32:
        raise HypercallError(errno.EINVAL, f"DR{index} of more than 32 bits")
    elif index == 6:
        value = untrusted & DR6_WRITABLE | DR6_DEFAULT
    else:
        value = untrusted & ~DR7_RESERVED_ZERO | DR7_DEFAULT
        if untrusted & DR7_GENERAL_DETECT:
            raise HypercallError(errno.EPERM, "DR7 general detect")
        if value & 0xFF and not vcpu.cr4 & CR4_DE and any(value >> (16 + 4 * number) & 3 == 2 for number in range(4)):
            raise HypercallError(errno.EPERM, "I/O breakpoint without CR4.DE")
    vcpu.state.dr[index] = value
    vcpu.state.dirty |= Dirty.DEBUG


def note_debug_exception(vcpu: Vcpu) -> None:
    """The engine has set DR6; keep it in the form that the guest reads."""
    vcpu.state.dr[6] = vcpu.state.dr[6] & DR6_WRITABLE | DR6_DEFAULT
    vcpu.state.dirty |= Dirty.DEBUG


def note_traps(vcpu: Vcpu, bits: int) -> None:
    """An emulated instruction has met a breakpoint or is single-stepped: these bits of DR6, reported when it retires."""
    vcpu.emulated_traps |= bits


def take_traps(vcpu: Vcpu) -> int:
    """What ``note_traps`` has collected goes into DR6. -> the bits: not 0 means #DB."""
    bits, vcpu.emulated_traps = vcpu.emulated_traps, 0
    if bits:
        vcpu.state.dr[6] |= bits | DR6_DEFAULT
        vcpu.state.dirty |= Dirty.DEBUG
    return bits
