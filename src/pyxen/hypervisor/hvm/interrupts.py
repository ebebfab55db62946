"""Giving interrupts to an HVM vCPU: NMIs, the event upcall's vector, the local APIC's requests (Xen's arch/x86/hvm/irq.c)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.engine.interface import EventType, injected_event

if TYPE_CHECKING:
    from pyxen.hypervisor.hvm.vcpu import HvmVcpu

FLAG_IF = 1 << 9
VECTOR_NMI, VECTOR_UD, VECTOR_GP = 2, 6, 13
WAITING = 1 << 31  #: of ``CpuState.injection``: the guest has not taken it yet


def pending_vector(vcpu: HvmVcpu) -> int | None:
    """The interrupt that the vCPU should take next. The upcall's vector asks as long as the guest has not cleared evtchn_upcall_pending."""
    if vcpu.container.callback_vector and not vcpu.upcall_vector and vcpu.octets[vcpu.info]:
        return vcpu.container.callback_vector
    return vcpu.local_apic.pending()


def ends_halt(vcpu: HvmVcpu) -> bool:
    """Whether HLT has nothing to wait for."""
    if vcpu.state.injection & WAITING or vcpu.nmi_pending:
        return True
    return bool(vcpu.state.rflags & FLAG_IF) and pending_vector(vcpu) is not None


def deliver_pending(vcpu: HvmVcpu) -> None:
    """Before the guest runs: what is to be injected now, or the wish to know when interrupts are on."""
    vcpu.was_reset = False
    state = vcpu.state
    if state.injection & WAITING:
        return
    if vcpu.nmi_pending:
        vcpu.nmi_pending = False
        state.injection = injected_event(EventType.NMI, VECTOR_NMI)
        return
    vector = pending_vector(vcpu)
    if vector is None:
        state.interrupt_window = 0
    elif state.rflags & FLAG_IF:
        if vector == vcpu.local_apic.pending():
            vcpu.local_apic.acknowledge(vector)
        state.injection = injected_event(EventType.EXTERNAL_INTERRUPT, vector)
        state.interrupt_window = int(vcpu.local_apic.pending() is not None)
    else:
        state.interrupt_window = 1


def _retract(vcpu: HvmVcpu, event: int) -> None:
    """An interrupt that was about to be taken is pending again."""
    if event >> 8 & 7 == EventType.NMI:
        vcpu.nmi_pending = True
    elif event >> 8 & 7 == EventType.EXTERNAL_INTERRUPT:
        vcpu.local_apic.retract(event & 0xFF)


def raise_exception(vcpu: HvmVcpu, vector: int, error_code: int | None = None) -> None:
    """A fault of the instruction at RIP, through the guest's IDT. It goes before an interrupt that waits, which comes again."""
    state = vcpu.state
    if state.injection & WAITING:
        _retract(vcpu, state.injection)
    state.injection = injected_event(EventType.EXCEPTION, vector, has_error_code=error_code is not None)
    state.injection_error_code = error_code or 0


def raise_page_fault(vcpu: HvmVcpu, address: int, error_code: int) -> None:
    """#PF at a linear address."""
    vcpu.state.cr2 = address
    raise_exception(vcpu, 14, error_code)
