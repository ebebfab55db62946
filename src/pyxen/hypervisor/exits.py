"""What happens at each exit of a PV vCPU: the dispatch from the engine's exit reasons to traps, hypercalls and emulation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pyxen.engine.interface import ExitReason
from pyxen.hypervisor import (
    cpuid,
    debug_registers,
    descriptors,
    far_transfer,
    guest_access,
    hypercall_table,
    page_table_writes,
    privileged_ops,
    traps,
)
from pyxen.hypervisor.descriptors import LDT_FIRST_PAGE, ldt_base
from pyxen.hypervisor.instruction import MASK64

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

PF_PRESENT, PF_WRITE, PF_USER, PF_RESERVED, PF_FETCH = 1, 2, 4, 8, 16
#: Vectors whose hardware gates a guest may use by an ``int`` instruction without its trap table's word: int3, into.
OPEN_GATES = frozenset((traps.VECTOR_BP, traps.VECTOR_OF))
#: ICEBP raises #DB whatever the gate's DPL is; ``int 1`` is longer.
ICEBP_LENGTH = 1
FORCED_EMULATION_PREFIX = b"\x0f\x0bxen"


def on_kick(vcpu: Vcpu) -> None:
    """The loop looks for pending work before every entry; but the kick may have been the one-shot timer's alarm."""
    vcpu.one_shot_timer.look()


def on_syscall(vcpu: Vcpu) -> None:
    """SYSCALL: a hypercall from the guest kernel, a system call from its user space."""
    if vcpu.kernel_mode:
        hypercall_table.dispatch(vcpu)
    else:
        traps.system_call(vcpu)


def on_software_interrupt(vcpu: Vcpu) -> None:
    """int n: through the guest's trap table if its DPL allows it, else #GP at the instruction (permit_softint)."""
    state = vcpu.state
    vector = state.vector
    if vector == traps.VECTOR_DB and state.instruction_length == ICEBP_LENGTH:
        traps.inject(vcpu, vector)
        return
    entry = vcpu.traps[vector]
    allowed = vector in OPEN_GATES or (entry is not None and entry.dpl >= (1 if vcpu.kernel_mode else 3))
    if not allowed:
        state.rip -= state.instruction_length
        traps.inject(vcpu, traps.VECTOR_GP, vector << 3 | 2)
    elif entry is None:
        traps.inject(vcpu, vector)
    else:
        traps.bounce(vcpu, entry.address, masks_events=entry.masks_events)


def on_exception(vcpu: Vcpu) -> None:
    """A fault of the current instruction."""
    state = vcpu.state
    handler = _FAULTS.get(state.vector)
    if handler is None:
        traps.inject(vcpu, state.vector, state.error_code)
    else:
        handler(vcpu, state.error_code)


def _on_page_fault(vcpu: Vcpu, error_code: int) -> None:
    state = vcpu.state
    address = state.cr2
    offset = address - ldt_base(vcpu)
    if 0 <= offset < (32 - LDT_FIRST_PAGE) << 12 and not error_code & PF_USER:
        if descriptors.map_ldt_page(vcpu, offset):
            return
        # The guest sees the fault where its LDT lies, not where Xen maps it (handle_ldt_mapping_fault).
        state.cr2 = vcpu.ldt_address + offset & MASK64
        if not traps.is_canonical(state.cr2):
            traps.inject(vcpu, traps.VECTOR_GP, offset & 0xFFF8 | 4)
        else:
            traps.inject(vcpu, traps.VECTOR_PF, error_code)
        return
    if (
        vcpu.kernel_mode
        and error_code & (PF_PRESENT | PF_WRITE | PF_FETCH | PF_RESERVED) == PF_PRESENT | PF_WRITE
        and vcpu.domain.writable_page_tables
        and page_table_writes.emulate(vcpu, address)
    ):
        return
    traps.inject(vcpu, traps.VECTOR_PF, error_code)


def _on_general_protection(vcpu: Vcpu, error_code: int) -> None:
    if error_code == 0 and privileged_ops.emulate(vcpu):
        return
    traps.inject(vcpu, traps.VECTOR_GP, error_code)


def _on_invalid_opcode(vcpu: Vcpu, error_code: int) -> None:
    state = vcpu.state
    try:
        code = guest_access.read(vcpu, state.rip, 5)
        if code == FORCED_EMULATION_PREFIX and guest_access.read(vcpu, state.rip + 5, 2) == b"\x0f\xa2":
            if privileged_ops.cpuid_faults(vcpu):
                state.rip += len(FORCED_EMULATION_PREFIX)
                traps.inject(vcpu, traps.VECTOR_GP, 0)
                return
            cpuid.execute(vcpu)
            privileged_ops.retire(vcpu, 7)
            return
    except guest_access.GuestFault:
        pass
    traps.inject(vcpu, traps.VECTOR_UD, error_code)


def _on_device_not_available(vcpu: Vcpu, error_code: int) -> None:
    """#NM clears TS before the guest sees it (do_device_not_available)."""
    traps.inject(vcpu, traps.VECTOR_NM, error_code)
    privileged_ops.set_task_switched(vcpu, on=False)


def _on_debug(vcpu: Vcpu, error_code: int) -> None:
    debug_registers.note_debug_exception(vcpu)
    traps.inject(vcpu, traps.VECTOR_DB, error_code)


_FAULTS: dict[int, Callable[[Vcpu, int], None]] = {
    traps.VECTOR_DB: _on_debug,
    traps.VECTOR_UD: _on_invalid_opcode,
    traps.VECTOR_NM: _on_device_not_available,
    traps.VECTOR_GP: _on_general_protection,
    traps.VECTOR_PF: _on_page_fault,
}


def on_cpuid(vcpu: Vcpu) -> None:
    """CPUID executed directly: the policy's answer, or #GP in user space when the guest kernel wants it so (CPUID faulting)."""
    if privileged_ops.cpuid_faults(vcpu):
        traps.inject(vcpu, traps.VECTOR_GP, 0)
        return
    cpuid.execute(vcpu)
    privileged_ops.retire(vcpu, vcpu.state.instruction_length)


def on_engine_failure(vcpu: Vcpu) -> None:
    """The engine can't go on with this vCPU."""
    state = vcpu.state
    reason = ExitReason(state.exit_reason).name
    vcpu.domain.crash(f"vCPU {vcpu.vcpu_id}: {reason} at rip {state.rip:#x} (qualification {state.qualification:#x})")


EXIT_HANDLERS: list[Callable[[Vcpu], None]] = [on_engine_failure] * len(ExitReason)
EXIT_HANDLERS[ExitReason.KICK] = on_kick
EXIT_HANDLERS[ExitReason.EXCEPTION] = on_exception
EXIT_HANDLERS[ExitReason.SOFTWARE_INTERRUPT] = on_software_interrupt
EXIT_HANDLERS[ExitReason.SYSCALL] = on_syscall
EXIT_HANDLERS[ExitReason.SYSENTER] = traps.sysenter
EXIT_HANDLERS[ExitReason.FAR_TRANSFER] = far_transfer.far_transfer
EXIT_HANDLERS[ExitReason.CPUID] = on_cpuid
EXIT_HANDLERS[ExitReason.RDTSC] = privileged_ops.on_rdtsc
