"""Hypercalls about the calling vCPU: trap table, descriptor tables, stacks, segment bases, FPU, debug registers, vm_assist."""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from pyxen.abi import arch_x86_64, xen
from pyxen.engine.interface import FS, GS, Dirty
from pyxen.hypervisor import debug_registers, descriptors, guest_access, privileged_ops
from pyxen.hypervisor.gate import TrapEntry
from pyxen.hypervisor.guest_access import is_guest_address
from pyxen.hypervisor.preemption import BUDGET, Preempted
from pyxen.hypervisor.traps import is_canonical

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

TRAP_DPL, TRAP_MASKS_EVENTS = 3, 4  # trap_info.flags: TI_GET_DPL, TI_GET_IF
_TRAP = struct.Struct("<BBH4xQ")
#: Types of assistance a 64-bit PV domain may switch.
VM_ASSISTS = frozenset(
    (
        xen.VMASST_TYPE_4gb_segments,
        xen.VMASST_TYPE_4gb_segments_notify,
        xen.VMASST_TYPE_writable_pagetables,
        xen.VMASST_TYPE_pae_extended_cr3,
        xen.VMASST_TYPE_architectural_iopl,
        xen.VMASST_TYPE_runstate_update_flag,
        xen.VMASST_TYPE_m2p_strict,
    )
)
#: And an HVM domain.
HVM_ASSISTS = frozenset((xen.VMASST_TYPE_runstate_update_flag,))


def set_trap_table(vcpu: Vcpu, address: int) -> int:
    """Read trap_info entries up to one with address 0. A NULL table clears all. -EFAULT; -EINVAL for an address that is not canonical."""
    if not address:
        vcpu.traps.clear()
        return 0
    for _ in range(BUDGET):
        vector, flags, _, handler = _TRAP.unpack(guest_access.read(vcpu, address, _TRAP.size))
        if not handler:
            return 0
        if not is_canonical(handler):
            return -errno.EINVAL
        vcpu.traps[vector] = TrapEntry(handler, flags & TRAP_DPL, bool(flags & TRAP_MASKS_EVENTS))
        address += _TRAP.size
    raise Preempted(address)


def set_gdt(vcpu: Vcpu, frame_list: int, entries: int) -> int:
    """Frames and number of entries of the guest's GDT. -EINVAL, -EFAULT."""
    if entries > descriptors.FIRST_RESERVED_ENTRY:
        return -errno.EINVAL
    pages = (entries + 511) // 512
    frames = list(struct.unpack(f"<{pages}Q", guest_access.read(vcpu, frame_list, 8 * pages))) if pages else []
    descriptors.set_gdt(vcpu, frames, entries)
    return 0


def update_descriptor(vcpu: Vcpu, machine: int, value: int) -> int:
    """Write one descriptor at a machine address. -EINVAL."""
    descriptors.update_descriptor(vcpu, machine, value)
    return 0


def stack_switch(vcpu: Vcpu, ss: int, sp: int) -> int:
    """The kernel stack for entries from user mode."""
    vcpu.kernel_ss = ss & 0xFFFF | 3
    vcpu.kernel_sp = sp
    return 0


def fpu_taskswitch(vcpu: Vcpu, on: int) -> int:
    """Set or clear the guest's CR0.TS."""
    privileged_ops.set_task_switched(vcpu, on=bool(on))
    return 0


def set_debugreg(vcpu: Vcpu, register: int, value: int) -> int:
    """-EINVAL, -EPERM, -ENODEV."""
    debug_registers.set_register(vcpu, register, value)
    return 0


def get_debugreg(vcpu: Vcpu, register: int) -> int:
    """The register's value, or a negative errno."""
    return debug_registers.get(vcpu, register)


def set_segment_base(vcpu: Vcpu, which: int, base: int) -> int:
    """SEGBASE_*. -EINVAL for an address that is not the guest's."""
    state = vcpu.state
    if which == arch_x86_64.SEGBASE_GS_USER_SEL:
        return _load_user_gs(vcpu, base & 0xFFFF)
    if which not in (arch_x86_64.SEGBASE_FS, arch_x86_64.SEGBASE_GS_USER, arch_x86_64.SEGBASE_GS_KERNEL) or not is_guest_address(base):
        return -errno.EINVAL
    if which == arch_x86_64.SEGBASE_GS_USER:
        vcpu.gs_base_other = base
    else:
        state.segs[FS if which == arch_x86_64.SEGBASE_FS else GS].base = base
        state.dirty |= Dirty.SEGMENTS
    return 0


def _load_user_gs(vcpu: Vcpu, selector: int) -> int:
    """Load GS as user space will have it: its base is the descriptor's; a bad selector loads as null (Xen clears it)."""
    loaded = descriptors.data_segment(vcpu, selector | 3)
    gs = vcpu.state.segs[GS]
    gs.selector = selector | 3 if loaded else 0
    vcpu.gs_base_other, gs.limit, gs.attributes = loaded or descriptors.NULL_SEGMENT
    vcpu.state.dirty |= Dirty.SEGMENTS
    return 0


def vm_assist(vcpu: Vcpu, command: int, kind: int) -> int:
    """Enable or disable an assistance. -EINVAL for one that a 64-bit PV guest can't have, -ENOSYS for another command."""
    if kind not in (HVM_ASSISTS if vcpu.is_hvm else VM_ASSISTS):
        return -errno.EINVAL
    if command == xen.VMASST_CMD_enable:
        vcpu.domain.set_vm_assist(vcpu.domain.vm_assist | 1 << kind)
    elif command == xen.VMASST_CMD_disable:
        vcpu.domain.set_vm_assist(vcpu.domain.vm_assist & ~(1 << kind))
    else:
        return -errno.ENOSYS
    return 0
