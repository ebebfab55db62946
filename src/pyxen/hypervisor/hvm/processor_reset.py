"""How HVM vCPUs start: the state at a PVH domain's entry point, INIT and start-up IPIs, VCPUOP_initialise."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyxen.abi.hvm import hvm_vcpu
from pyxen.engine.interface import CS, DS, ES, SS, Dirty
from pyxen.hypervisor.dom0_interface import HypercallError

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

GENERAL = ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
CR0_PE, CR0_ET, CR0_PG = 1, 0x10, 1 << 31
CR4_PAE = 1 << 5
EFER_LME, EFER_LMA = 1 << 8, 1 << 10
CODE32, DATA32, CODE16, DATA16 = 0xC09B00, 0xC09300, 0x9B00, 0x9300
CODE64 = 0xA09B00
TSS32, LDT = 0x8B00, 0x8200
FAMILY_6 = 0x600


def _reset(vcpu: HvmVcpu) -> None:
    """Everything but segments and the instruction pointer, as after INIT."""
    state = vcpu.state
    for name in GENERAL:
        setattr(state, name, 0)
    state.rdx = FAMILY_6
    state.rflags = 2
    state.cr0, state.cr2, state.cr3, state.cr4, state.efer = CR0_ET, 0, 0, 0, 0
    for number in range(4):
        state.dr[number] = 0
    state.dr[6], state.dr[7] = 0xFFFF0FF0, 0x400
    for name in ("star", "lstar", "cstar", "sfmask", "kernel_gs_base", "tsc_aux", "sysenter_cs", "sysenter_esp", "sysenter_eip"):
        setattr(state, name, 0)
    state.gdt.base, state.gdt.limit = 0, 0xFFFF
    state.idt.base, state.idt.limit = 0, 0xFFFF
    for segment, attributes in ((state.ldt, LDT), (state.tr, TSS32)):
        segment.base, segment.limit, segment.selector, segment.attributes = 0, 0xFFFF, 0, attributes
    state.cpl = 0
    state.injection = state.interrupt_window = 0
    vcpu.nmi_pending = False
    vcpu.plain_msrs.clear()
    vcpu.domain.counter.reset(vcpu)
    state.dirty |= Dirty.ALL
    vcpu.request_flush()


def _flat(vcpu: HvmVcpu, code: int, data: int, limit: int) -> None:
    for number, segment in enumerate(vcpu.state.segs):
        segment.base, segment.limit, segment.selector = 0, limit, 0
        segment.attributes = code if number == CS else data


def enter_at(vcpu: HvmVcpu, entry: int, start_info: int) -> None:
    """The state that a PVH kernel is entered with: 32-bit protected mode without paging, EBX at the start information (Xen's
    docs/misc/pvh)."""
    _reset(vcpu)
    _flat(vcpu, CODE32, DATA32, 0xFFFFFFFF)
    vcpu.state.tr.limit = 0x67
    vcpu.state.cr0 = CR0_PE | CR0_ET
    vcpu.state.rip, vcpu.state.rbx = entry, start_info
    vcpu.initialised = True


def initialise(target: HvmVcpu, caller: HvmVcpu) -> None:
    """INIT: the vCPU stops and waits for a start-up IPI."""
    target.hypervisor.stop_briefly(target, caller)
    target.was_reset = True
    target.online = False
    target.initialised = False
    target.blocked = False
    target.local_apic.reset()
    target.settle()


def start_up(target: HvmVcpu, vector: int) -> None:
    """A start-up IPI: real mode at page ``vector``, if the vCPU waits for one."""
    if target.online or target.initialised:
        return
    _reset(target)
    _flat(target, CODE16, DATA16, 0xFFFF)
    code = target.state.segs[CS]
    code.selector, code.base = vector << 8, vector << 12
    target.state.rip = 0
    target.initialised = True
    target.hypervisor.bring_up(target)


def load_context(vcpu: HvmVcpu, untrusted: hvm_vcpu.vcpu_hvm_context) -> None:
    """VCPUOP_initialise (Xen's arch_set_info_hvm_guest). EINVAL."""
    if untrusted.pad or untrusted.mode not in (hvm_vcpu.VCPU_HVM_MODE_32B, hvm_vcpu.VCPU_HVM_MODE_64B):
        raise HypercallError(errno.EINVAL, "mode of a vCPU context")
    if untrusted.mode == hvm_vcpu.VCPU_HVM_MODE_64B:
        _load_64(vcpu, untrusted.cpu_regs.x86_64)
    else:
        _load_32(vcpu, untrusted.cpu_regs.x86_32)
    vcpu.initialised = True


def _load_64(vcpu: HvmVcpu, regs: hvm_vcpu.vcpu_hvm_x86_64) -> None:
    wanted = regs.cr0 & CR0_PG and regs.cr4 & CR4_PAE and regs.efer & EFER_LME and regs.efer & EFER_LMA
    if not wanted or not regs.cr0 & CR0_PE:
        raise HypercallError(errno.EINVAL, "a 64-bit vCPU needs paging, PAE and long mode")
    _reset(vcpu)
    _flat(vcpu, CODE64, DATA32, 0xFFFFFFFF)
    _load_registers(vcpu, regs, "r")


def _load_32(vcpu: HvmVcpu, regs: hvm_vcpu.vcpu_hvm_x86_32) -> None:
    if regs.efer & EFER_LMA or regs.pad1 or any(regs.pad2):
        raise HypercallError(errno.EINVAL, "a 32-bit vCPU context in long mode")
    _reset(vcpu)
    for number, name in ((CS, "cs"), (DS, "ds"), (SS, "ss"), (ES, "es")):
        segment = vcpu.state.segs[number]
        segment.selector = 0
        segment.base, segment.limit = getattr(regs, name + "_base"), getattr(regs, name + "_limit")
        # Type, S, DPL and P are the low octet of the VMCS form; AVL, L, D/B and G its bits 12-15.
        attributes = getattr(regs, name + "_ar")
        segment.attributes = (attributes & 0xFF) << 8 | (attributes & 0xF00) << 12
    vcpu.state.tr.base, vcpu.state.tr.limit = regs.tr_base, regs.tr_limit
    _load_registers(vcpu, regs, "e")


def _load_registers(vcpu: HvmVcpu, regs: hvm_vcpu.vcpu_hvm_x86_32 | hvm_vcpu.vcpu_hvm_x86_64, prefix: str) -> None:
    state = vcpu.state
    for name in ("ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "ip", "flags"):
        setattr(state, "r" + name, getattr(regs, prefix + name))
    state.rflags |= 2
    state.cr0, state.cr3, state.cr4, state.efer = regs.cr0 | CR0_ET, regs.cr3, regs.cr4, regs.efer
