/* HYPERVISOR_iret to user mode and what user mode sees: selectors, flags, registers. */
#include "guest.h"

USER_CODE(look, "pushf\n pop %rbx\n mov %cs, %edx\n mov %ss, %esi\n mov %ds, %edi\n mov %es, %ebp\n syscall");
USER_CODE(step, "nop\n nop\n syscall");

PROGRAM(iret_user)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    user_init();
    registers.r12 = 0x1212121212121212;
    registers.r8 = 0x88;
    registers.rcx = 0xcc;
    registers.rflags = X86_EFLAGS_MBS | X86_EFLAGS_IOPL | X86_EFLAGS_CF;
    trap = user_run(look, look_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "it ran and came back by syscall");
    check_equal(trap.registers.rbx & ~X86_EFLAGS_ARITHMETIC, X86_EFLAGS_MBS | X86_EFLAGS_IF, "user's PUSHF: IF, no IOPL");
    check(trap.registers.rbx & X86_EFLAGS_CF, "CF was loaded");
    check_equal(trap.registers.rdx & 0xffff, FLAT_USER_CS64, "CS");
    check_equal(trap.registers.rsi & 0xffff, FLAT_USER_SS64, "SS");
    check_equal(trap.registers.r12, 0x1212121212121212, "R12 passes through");
    check_equal(trap.registers.r8, 0x88, "R8 passes through");

    registers = user_registers();
    registers.rflags = X86_EFLAGS_MBS | X86_EFLAGS_TF;
    trap = user_run(step, step_end, registers);
    check_trap(trap, VECTOR_DB, 0, "TF in the iret frame");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 1, "stops after one instruction");
    check(trap.registers.rflags & X86_EFLAGS_TF, "and the frame has TF");

    /* VGCF_in_syscall: R11 and RCX are discarded, everything else as before. */
    registers = user_registers();
    registers.flags = VGCF_in_syscall;
    registers.rdx = 0xdd;
    trap = user_run(look, look_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "return in syscall context");
    check_equal(trap.registers.rdx & 0xffff, FLAT_USER_CS64, "CS");
    check_equal(trap.registers.rsi & 0xffff, FLAT_USER_SS64, "SS");
}
