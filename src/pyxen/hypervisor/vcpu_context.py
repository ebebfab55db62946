"""Loading a whole vCPU context: VCPUOP_initialise and XEN_DOMCTL_setvcpucontext (xen-x86_64.h: vcpu_guest_context; Xen's
arch_set_info_guest)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi.arch_x86_64 import (
    VGCF_I387_VALID,
    VGCF_failsafe_disables_events,
    VGCF_in_kernel,
    VGCF_syscall_disables_events,
    vcpu_guest_context,
    xen_cr3_to_pfn,
)
from pyxen.engine.interface import Dirty
from pyxen.hypervisor import descriptors
from pyxen.hypervisor.dom0_interface import HypercallError
from pyxen.hypervisor.gate import TrapEntry
from pyxen.hypervisor.guest_access import is_guest_address
from pyxen.hypervisor.traps import FLAG_IF, SETTABLE_FLAGS, is_canonical
from pyxen.hypervisor.vcpu import FLAT_KERNEL_CS, FLAT_KERNEL_SS, KERNEL_CPL

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip")


def load(vcpu: Vcpu, untrusted: vcpu_guest_context) -> None:
    """Make ``vcpu`` what the context says; it starts in kernel mode. EINVAL: nothing is changed then but what a
    second try replaces."""
    regs = untrusted.user_regs
    if not untrusted.flags & VGCF_in_kernel:
        raise HypercallError(errno.EINVAL, "a vCPU starts in kernel mode")
    code = (regs.rip, untrusted.event_callback_eip, untrusted.failsafe_callback_eip, untrusted.syscall_callback_eip)
    data = (untrusted.fs_base, untrusted.gs_base_kernel, untrusted.gs_base_user, untrusted.ldt_base)
    handlers = (trap.address for trap in untrusted.trap_ctxt)
    if not all(map(is_canonical, (*code, *handlers))) or not all(map(is_guest_address, data)):
        raise HypercallError(errno.EINVAL, "addresses of the vCPU context")
    vcpu.domain.address_space.new_kernel_root(vcpu, xen_cr3_to_pfn(untrusted.ctrlreg[3]))
    user_root = xen_cr3_to_pfn(untrusted.ctrlreg[1])
    if untrusted.ctrlreg[1] and not user_root:
        raise HypercallError(errno.EINVAL, "frame 0 is no page table")
    vcpu.domain.address_space.new_user_root(vcpu, user_root)
    _load_tables(vcpu, untrusted)
    _load_registers(vcpu, untrusted)
    if untrusted.flags & VGCF_I387_VALID:
        try:
            vcpu.cpu.write_fpu(bytes(untrusted.fpu_ctxt.x))
        except ValueError as error:
            raise HypercallError(errno.EINVAL, str(error)) from None
    vcpu.initialised = True


def _load_tables(vcpu: Vcpu, untrusted: vcpu_guest_context) -> None:
    entries = untrusted.gdt_ents
    if entries > descriptors.FIRST_RESERVED_ENTRY:
        raise HypercallError(errno.EINVAL, f"a GDT of {entries} entries")
    descriptors.set_gdt(vcpu, list(untrusted.gdt_frames[: (entries + 511) // 512]), entries)
    descriptors.set_ldt(vcpu, untrusted.ldt_base, untrusted.ldt_ents)
    for vector, trap in enumerate(untrusted.trap_ctxt):
        vcpu.traps[vector] = TrapEntry(trap.address, trap.flags & 3, bool(trap.flags & 4)) if trap.address else None
    vcpu.event_callback = untrusted.event_callback_eip
    vcpu.failsafe_callback = untrusted.failsafe_callback_eip
    vcpu.failsafe_masks_events = bool(untrusted.flags & VGCF_failsafe_disables_events)
    vcpu.syscall_callback = untrusted.syscall_callback_eip
    vcpu.syscall_masks_events = bool(untrusted.flags & VGCF_syscall_disables_events)
    vcpu.kernel_ss, vcpu.kernel_sp = untrusted.kernel_ss & 0xFFFF | 3, untrusted.kernel_sp


def _load_registers(vcpu: Vcpu, untrusted: vcpu_guest_context) -> None:
    state, regs = vcpu.state, untrusted.user_regs
    for name in GENERAL:
        setattr(state, name, getattr(regs, name))
    state.rflags = regs.rflags & SETTABLE_FLAGS | FLAG_IF | 2
    vcpu.iopl = regs.rflags >> 12 & 3
    vcpu.kernel_mode = True
    state.cpl = KERNEL_CPL
    state.cr3 = vcpu.kernel_root
    vcpu.set_flat_kernel_segments()
    code, stack = descriptors.code_segment(vcpu, regs.cs | 3), descriptors.stack_segment(vcpu, regs.ss | 3)
    state.segs[1].selector = regs.cs | 3 if code else FLAT_KERNEL_CS
    state.segs[2].selector = regs.ss | 3 if stack else FLAT_KERNEL_SS
    for index, selector in ((0, regs.es), (3, regs.ds), (4, regs.fs), (5, regs.gs)):
        segment = state.segs[index]
        loaded = descriptors.data_segment(vcpu, selector)
        segment.selector = selector if loaded else 0
        segment.base, segment.limit, segment.attributes = loaded or descriptors.NULL_SEGMENT
    state.segs[4].base, state.segs[5].base = untrusted.fs_base, untrusted.gs_base_kernel
    vcpu.gs_base_other = untrusted.gs_base_user
    state.dirty |= Dirty.ALL
    vcpu.request_flush()
