/* XSA-8: the exception that Xen makes of SYSCALL or SYSENTER without a handler of the guest's had wrong flags and went to the wrong place.
 * XSA-339: a guest's user space could crash its kernel by SYSENTER with odd flags. SYSENTER keeps neither RIP, CS nor RSP, so the frame
 * of its #GP has 0, 3 and 0 there; on processors where user space has no SYSENTER it is #UD at the instruction. */
#include "guest.h"

USER_CODE(call64, "syscall\n nop");
USER_CODE(enter, "sysenter\n nop");
USER_CODE(enter32, ".code32\n sysenter\n nop");

static void run(const char *code, const char *end, unsigned cs, unsigned long flags, bool enters, const char *what)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    registers.cs = cs;
    if (cs == FLAT_USER_CS32)
        registers.ss = FLAT_USER_SS32;
    registers.rflags |= flags;
    trap = user_run(code, end, registers);
    check(trap.kind == VECTOR_UD || trap.kind == VECTOR_GP, "%s: #UD or #GP, got %u", what, trap.kind);
    check_equal(trap.error, 0, what);
    check_equal(trap.registers.rip, enters && trap.kind == VECTOR_GP ? 0 : USER_CODE_ADDRESS, "RIP at the instruction, or lost");
    check_equal(trap.registers.cs & 3, 3, "from user mode");
    check_equal(trap.registers.rflags & X86_EFLAGS_NT, flags & X86_EFLAGS_NT, "NT in the frame as user space had it");
    check_equal(trap.registers.rsp, enters && trap.kind == VECTOR_GP ? 0 : USER_STACK_TOP - 64, "its stack, or lost");
}

PROGRAM(xsa_008_syscall_without_callback)
{
    user_init();
    callback_register(CALLBACKTYPE_syscall, 0, NULL);
    run(call64, call64_end, FLAT_USER_CS64, 0, false, "XSA-8: syscall");
    run(call64, call64_end, FLAT_USER_CS64, X86_EFLAGS_NT, false, "XSA-8: syscall with NT");
    run(enter, enter_end, FLAT_USER_CS64, 0, true, "XSA-8: sysenter in 64-bit code");
    run(enter32, enter32_end, FLAT_USER_CS32, 0, true, "XSA-339: sysenter in 32-bit code");
    run(enter32, enter32_end, FLAT_USER_CS32, X86_EFLAGS_NT | X86_EFLAGS_DF, true, "XSA-339: sysenter with NT and DF");
}
