"""Entering the guest kernel: bounce frames for exceptions, system calls and event upcalls; and leaving it by HYPERVISOR_iret.

What the guest finds on its kernel stack, from low to high: RCX, R11, [DS ES FS GS for the failsafe callback], [error code], RIP,
CS with the saved upcall mask in bits 32-39, RFLAGS with IF as the guest sees it, RSP, SS (xen-x86_64.h and Xen's x86_64/entry.S).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pyxen.abi.arch_x86_64 import VGCF_in_syscall
from pyxen.engine.interface import Dirty
from pyxen.hypervisor import descriptors, guest_access
from pyxen.hypervisor.vcpu import FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_USER_CS32

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

FLAG_TF, FLAG_IF, FLAG_DF = 1 << 8, 1 << 9, 1 << 10
FLAG_IOPL, FLAG_NT, FLAG_RF, FLAG_VM, FLAG_AC = 3 << 12, 1 << 14, 1 << 16, 1 << 17, 1 << 18
#: Flags cleared when the guest kernel is entered.
CLEARED_ON_ENTRY = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | FLAG_AC
#: Flags a guest may set by iret: all arithmetic ones, TF, DF, NT, RF, AC, ID.
SETTABLE_FLAGS = 0x254DD5

VECTOR_DB, VECTOR_NMI, VECTOR_BP, VECTOR_OF, VECTOR_UD, VECTOR_NM = 1, 2, 3, 4, 6, 7
VECTOR_GP, VECTOR_PF = 13, 14
HAS_ERROR_CODE = frozenset((8, 10, 11, 12, 13, 14, 17))

_FRAMES = {count: struct.Struct(f"<{count}Q") for count in (7, 8, 11)}


def is_canonical(address: int) -> bool:
    """Whether bits 63-47 are all equal."""
    return address < 1 << 47 or address >= (1 << 64) - (1 << 47)


def bounce(
    vcpu: Vcpu,
    handler: int,
    *,
    masks_events: bool,
    error_code: int | None = None,
    selectors: bool = False,
    reported_cs: int | None = None,
    reported_ss: int | None = None,
) -> None:
    """Enter the guest kernel at ``handler`` (Xen's create_bounce_frame). A stack that can't take the frame crashes the domain."""
    state = vcpu.state
    if not handler or not is_canonical(handler):
        vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: no handler to enter the guest kernel at (rip {state.rip:#x})")
        return
    segs = state.segs
    cs = segs[1].selector if reported_cs is None else reported_cs
    ss = segs[2].selector if reported_ss is None else reported_ss
    stack = state.rsp
    saved_stack = stack
    if vcpu.kernel_mode:
        cs &= ~3
    else:
        vcpu.toggle_mode()
        stack = vcpu.kernel_sp
    mask = vcpu.octets[vcpu.info + 1]
    flags = state.rflags
    reported_flags = flags & ~(FLAG_IF | FLAG_IOPL) | (0 if mask else FLAG_IF)
    if vcpu.domain.architectural_iopl:
        reported_flags |= vcpu.iopl << 12
    frame = [state.rcx, state.r11]
    if selectors:
        frame += [segs[3].selector, segs[0].selector, segs[4].selector, segs[5].selector]
    if error_code is not None:
        frame.append(error_code)
    frame += [state.rip, cs | mask << 32, reported_flags, saved_stack, ss]
    size = 8 * len(frame)
    stack = ((stack & ~15) - size) & 0xFFFF_FFFF_FFFF_FFFF
    try:
        if stack & 0xFFF <= 4096 - size:
            machine = guest_access.translate(vcpu, stack, write=True)
            _FRAMES[len(frame)].pack_into(vcpu.octets, machine, *frame)
            vcpu.hypervisor.note_write(machine >> 12)
        else:
            guest_access.write(vcpu, stack, _FRAMES[len(frame)].pack(*frame))
    except guest_access.GuestFault as fault:
        vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: no room for a bounce frame: {fault} (rip {state.rip:#x}, handler {handler:#x})")
        return
    if masks_events:
        vcpu.octets[vcpu.info + 1] = 1
    state.rsp = stack
    state.rip = handler
    state.rflags = flags & ~CLEARED_ON_ENTRY
    vcpu.set_flat_kernel_segments()


def inject(vcpu: Vcpu, vector: int, error_code: int = 0) -> None:
    """Deliver an exception through the guest's trap table (pv_inject_event). No handler crashes the domain, as on Xen."""
    entry = vcpu.traps[vector]
    state = vcpu.state
    if vector == VECTOR_PF:
        vcpu.words[(vcpu.info + 16) >> 3] = state.cr2
        error_code = error_code & ~4 | (0 if vcpu.kernel_mode else 4)
    if entry is None:
        mode = "kernel" if vcpu.kernel_mode else "user"
        detail = f", cr2 {state.cr2:#x}" if vector == VECTOR_PF else ""
        vcpu.domain.crash(
            f"vCPU {vcpu.vcpu_id}: exception {vector} (error code {error_code:#x}{detail}) in {mode} mode at rip {state.rip:#x}: no handler"
        )
        return
    bounce(vcpu, entry.address, masks_events=entry.masks_events, error_code=error_code if vector in HAS_ERROR_CODE else None)


def fail_safe(vcpu: Vcpu) -> None:
    """The state that the guest asked to return to can't be loaded: its failsafe callback gets it (TBF_FAILSAFE)."""
    bounce(vcpu, vcpu.failsafe_callback, masks_events=vcpu.failsafe_masks_events, selectors=True)


def system_call(vcpu: Vcpu) -> None:
    """SYSCALL from guest user space; #UD when the kernel registered no callback for that kind of code."""
    state = vcpu.state
    compatible = not state.segs[1].attributes >> 21 & 1
    handler, masks = vcpu.syscall_callback, vcpu.syscall_masks_events
    if compatible:
        handler, masks = vcpu.syscall32_callback, vcpu.syscall32_masks_events
    if not handler:
        state.rip -= state.instruction_length
        inject(vcpu, VECTOR_UD)
        return
    state.rcx = state.rip
    state.r11 = state.rflags
    cs = FLAT_USER_CS32 if compatible else FLAT_KERNEL_CS
    ss = FLAT_KERNEL_SS
    bounce(vcpu, handler, masks_events=bool(masks), reported_cs=cs, reported_ss=ss)
    state.rflags &= ~FLAG_DF


def sysenter(vcpu: Vcpu) -> None:
    """SYSENTER, in user space or in the kernel; #GP(0) when the kernel registered no callback for it.

    The instruction keeps neither RIP nor RSP: both are 0 in either frame, and CS is a null selector (Xen's sysenter_entry). So in
    the kernel, whose stack pointer is where frames go, it ends in a frame at the top of the address space or in a crash.
    """
    state = vcpu.state
    state.rip = state.rsp = 0
    handler, masks, error_code = vcpu.sysenter_callback, vcpu.sysenter_masks_events, None
    if not handler:
        entry = vcpu.traps[VECTOR_GP]
        handler, masks, error_code = (entry.address, entry.masks_events, 0) if entry is not None else (0, False, 0)
    bounce(vcpu, handler, masks_events=masks, error_code=error_code, reported_cs=3, reported_ss=FLAT_KERNEL_SS)


def deliver_pending(vcpu: Vcpu) -> None:
    """Before the guest runs: an NMI, then the event upcall, if there is one and the guest lets it in."""
    if vcpu.nmi_pending and not vcpu.nmi_active:
        vcpu.nmi_pending = False
        # On Xen an NMI callback is nothing but entry 2 of the trap table; Linux registers the entry only.
        entry = vcpu.traps[VECTOR_NMI]
        handler = vcpu.nmi_callback or (entry.address if entry is not None else 0)
        if handler:
            vcpu.nmi_active = True
            bounce(vcpu, handler, masks_events=True)
    octets, info = vcpu.octets, vcpu.info
    if octets[info] and not octets[info + 1] and vcpu.event_callback:
        bounce(vcpu, vcpu.event_callback, masks_events=True)


def hypercall_iret(vcpu: Vcpu) -> None:
    """HYPERVISOR_iret (do_iret): return to the context on the guest kernel's stack."""
    state = vcpu.state
    stack = state.rsp
    if stack & 0xFFF <= 4096 - 72 and not stack & 7:
        index = guest_access.translate(vcpu, stack, write=False) >> 3
        frame = vcpu.words[index : index + 9].tolist()
    else:
        frame = list(struct.unpack("<9Q", guest_access.read(vcpu, stack, 72)))
    untrusted_rax, untrusted_r11, untrusted_rcx, untrusted_vgcf, *context = frame
    state.rax = untrusted_rax
    if untrusted_vgcf & VGCF_in_syscall:
        state.rcx, state.r11 = context[0], context[2]
    else:
        state.rcx, state.r11 = untrusted_rcx, untrusted_r11
    return_to(vcpu, context)
    vcpu.nmi_active = False


def return_to(vcpu: Vcpu, context: list[int]) -> None:
    """Load RIP, CS, RFLAGS, RSP, SS as an iret of the guest kernel does. A bad one ends in the failsafe callback."""
    untrusted_rip, untrusted_cs, untrusted_flags, untrusted_rsp, untrusted_ss = context
    state = vcpu.state
    cs, ss = untrusted_cs & 0xFFFF | 3, untrusted_ss & 0xFFFF | 3
    if untrusted_cs & 3 == 3:
        if not vcpu.user_root:
            vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: return to user mode without a user page table")
            return
        vcpu.toggle_mode()
    state.rip = untrusted_rip
    state.rsp = untrusted_rsp
    state.rflags = untrusted_flags & SETTABLE_FLAGS | 2 | FLAG_IF
    vcpu.octets[vcpu.info + 1] = 0 if untrusted_flags & FLAG_IF else 1
    if vcpu.domain.architectural_iopl and vcpu.kernel_mode:
        vcpu.iopl = untrusted_flags >> 12 & 3
    if vcpu.kernel_mode and cs == FLAT_KERNEL_CS and ss == FLAT_KERNEL_SS and is_canonical(untrusted_rip):
        vcpu.set_flat_kernel_segments()
        return
    code, stack = descriptors.code_segment(vcpu, cs), descriptors.stack_segment(vcpu, ss)
    segs = state.segs
    segs[1].selector, segs[2].selector = cs, ss
    state.dirty |= Dirty.SEGMENTS
    if code is None or stack is None or not is_canonical(untrusted_rip):
        fail_safe(vcpu)
        return
    segs[1].base, segs[1].limit, segs[1].attributes = code
    segs[2].base, segs[2].limit, segs[2].attributes = stack
    vcpu.known_segments.remember("code", cs, code)
    vcpu.known_segments.remember("stack", ss, stack)
