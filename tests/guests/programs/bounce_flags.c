/* RFLAGS across a bounce: the frame has the interrupted flags, the handler runs without TF, NT, RF and AC. */
#include "guest.h"

USER_CODE(fault, "ud2");
USER_CODE(call, "syscall");

static u64 flags_in_handler;

static void look(struct registers *registers)
{
    asm volatile("pushf; pop %0" : "=r"(flags_in_handler));
    if ((registers->cs & 3) == 3)
        user_stopped(registers);
    trap_remember(registers);
    registers->rip += 2;
}

#define ODD_FLAGS (X86_EFLAGS_NT | X86_EFLAGS_AC | 1UL << 21 | X86_EFLAGS_CF)

static void check_bounce(const char *what, const char *code, const char *code_end)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    registers.rflags |= ODD_FLAGS;
    trap = user_run(code, code_end, registers);
    check((trap.registers.rflags & ODD_FLAGS) == ODD_FLAGS, "%s: NT, AC, ID and CF are in the frame (0x%lx)", what, trap.registers.rflags);
    check(!(flags_in_handler & (X86_EFLAGS_NT | X86_EFLAGS_AC | X86_EFLAGS_TF | X86_EFLAGS_RF)), "%s: the handler has neither NT nor AC (0x%lx)",
          what, flags_in_handler);
    check(flags_in_handler & (1UL << 21), "%s: ID stays", what);
    check(!(flags_in_handler & X86_EFLAGS_IOPL), "%s: IOPL is 0", what);
}

PROGRAM(bounce_flags)
{
    user_init();
    trap_set_handler(VECTOR_UD, look);
    trap_set_handler(KIND_SYSCALL, look);
    check_bounce("exception from user mode", fault, fault_end);
    check_bounce("system call", call, call_end);

    asm volatile("pushf; orl %0, (%%rsp); popf; ud2; pushf; andl %1, (%%rsp); popf" ::"i"(X86_EFLAGS_AC), "i"(~X86_EFLAGS_AC & 0x7fffffff)
                 : "memory", "cc");
    check(trap_record.registers.rflags & X86_EFLAGS_AC, "exception in the kernel: AC is in the frame");
    check(!(flags_in_handler & X86_EFLAGS_AC), "exception in the kernel: not in the handler");
}
