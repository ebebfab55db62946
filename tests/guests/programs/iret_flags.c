/* HYPERVISOR_iret with odd flags: VM, IOPL and the reserved bits have no effect, IF is the upcall mask, NT, AC, ID and DF are the guest's. */
#include "guest.h"

USER_CODE(look, "pushf\n pop %rbx\n cld\n syscall");

#define IDENTIFICATION 0x200000UL
#define SEEN (X86_EFLAGS_NT | X86_EFLAGS_AC | IDENTIFICATION | X86_EFLAGS_DF | X86_EFLAGS_CF)

static struct trap_record look_with(u64 flags)
{
    struct registers registers = user_registers();

    registers.rflags = flags;
    return user_run(look, look_end, registers);
}

PROGRAM(iret_flags)
{
    struct trap_record trap;

    user_init();
    trap = look_with(X86_EFLAGS_MBS | SEEN);
    check_equal(trap.kind, KIND_SYSCALL, "NT, AC, ID, DF, CF");
    check_equal(trap.registers.rbx, X86_EFLAGS_MBS | X86_EFLAGS_IF | SEEN, "are loaded");
    trap = look_with(X86_EFLAGS_VM | X86_EFLAGS_MBS);
    check_equal(trap.kind, KIND_SYSCALL, "VM: no virtual-8086 mode");
    check_equal(trap.registers.rbx, X86_EFLAGS_MBS | X86_EFLAGS_IF, "and it does not show");
    check_equal(trap.registers.cs, FLAT_USER_CS64, "CS is as it was");
    trap = look_with(X86_EFLAGS_IOPL);
    check_equal(trap.registers.rbx, X86_EFLAGS_MBS | X86_EFLAGS_IF, "IOPL, and a clear reserved bit");
    trap = look_with(0xffffffff00008028UL);
    check_equal(trap.kind, KIND_SYSCALL, "reserved bits");
    check_equal(trap.registers.rbx, X86_EFLAGS_MBS | X86_EFLAGS_IF, "are dropped");
    trap = look_with(X86_EFLAGS_MBS | X86_EFLAGS_RF);
    check_equal(trap.registers.rbx, X86_EFLAGS_MBS | X86_EFLAGS_IF, "RF covers one instruction");
    trap = look_with(X86_EFLAGS_MBS | X86_EFLAGS_IF);
    check(!trap.registers.saved_upcall_mask, "IF unmasks upcalls");
    check(trap.registers.rflags & X86_EFLAGS_IF, "which the frame's IF shows");
    trap = look_with(X86_EFLAGS_MBS);
    check_equal(trap.registers.saved_upcall_mask, 1, "no IF masks them");
    check(!(trap.registers.rflags & X86_EFLAGS_IF), "which the frame's IF shows, too");
}
