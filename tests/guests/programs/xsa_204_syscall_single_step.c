/* XSA-204: single stepping over SYSCALL stepped the kernel. XSA-260: a breakpoint on MOV SS came after the next instruction's entry to Xen.
 * XSA-265: ICEBP hit a check of Xen's own. XSA-156: #DB and #AC without end. From user space and from the kernel. */
#include "guest.h"

USER_CODE(step, "nop\n syscall\n nop");
USER_CODE(stack_call, "mov $0x401000, %eax\n mov (%rax), %ss\n syscall\n nop");
USER_CODE(stack_breakpoint, "mov $0x401000, %eax\n mov (%rax), %ss\n int3\n nop");
USER_CODE(stack_interrupt, "mov $0x401000, %eax\n mov (%rax), %ss\n int $0x90\n nop");
USER_CODE(icebp, ".byte 0xf1\n nop");
USER_CODE(unaligned, "pushfq\n orq $0x40000, (%rsp)\n popfq\n mov 0x401001, %rax\n nop\n syscall");

static void check_sane(struct trap_record trap, const char *what)
{
    check(trap.kind == VECTOR_DB || trap.kind == KIND_SYSCALL || trap.kind == VECTOR_BP || trap.kind == VECTOR_GP || trap.kind == 0x90, "%s: kind %u",
          what, trap.kind);
    check((trap.registers.cs & 3) == 3, "%s: told as from user mode", what);
    check(trap.registers.rip >= USER_CODE_ADDRESS && trap.registers.rip < USER_CODE_ADDRESS + 64, "%s: RIP 0x%lx", what, trap.registers.rip);
    check(!(trap.registers.flags & X86_EFLAGS_TF), "%s: the kernel is not stepped", what);
}

PROGRAM(xsa_204_syscall_single_step)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    user_init();
    trap_table_install(0x90, 3);
    registers.rflags |= X86_EFLAGS_TF;
    trap = user_run(step, step_end, registers);
    check_trap(trap, VECTOR_DB, 0, "XSA-204: a step of user code");
    registers.rip = USER_CODE_ADDRESS + 1;
    trap = user_run(step, step_end, registers);
    check_sane(trap, "XSA-204: a step over SYSCALL");
    *(u64 *)user_data = FLAT_USER_SS64;
    hypercall_set_debugreg(0, USER_DATA_ADDRESS);
    hypercall_set_debugreg(7, 0x401 | 3 << 16 | 1 << 18); /* data read or write, 2 octets */
    check_sane(user_run_code(stack_call), "XSA-260: SYSCALL after MOV SS");
    check_sane(user_run_code(stack_breakpoint), "XSA-260: INT3 after MOV SS");
    check_sane(user_run_code(stack_interrupt), "XSA-260: INT n after MOV SS");
    /* A breakpoint on the kernel stack that Xen's frame will cover. */
    hypercall_set_debugreg(0, (u64)trap_stack_top - 8);
    hypercall_set_debugreg(7, 0x401 | 3 << 16 | 2 << 18);
    trap_expect(VECTOR_DB); /* the kernel's own handler reads that frame */
    trap = user_run_code(step);
    check(trap.kind == KIND_SYSCALL || trap.kind == VECTOR_DB, "XSA-156: a breakpoint where the frame is written, got %u", trap.kind);
    hypercall_set_debugreg(7, 0x400);
    check_sane(user_run_code(icebp), "XSA-265: ICEBP in user space");
    trap = TRAP_OF(".byte 0xf1");
    check_equal(trap.kind, VECTOR_DB, "XSA-265: ICEBP in the kernel");
    trap = user_run_code(unaligned);
    check(trap.kind == VECTOR_AC || trap.kind == KIND_SYSCALL, "XSA-156: an unaligned access with AC set, got %u", trap.kind);
}
