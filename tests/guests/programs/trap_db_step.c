/* Single stepping: #DB after each instruction, DR6.BS, TF in the frame and not in the handler. */
#include "guest.h"

static unsigned steps;
static u64 step_rip[64], frame_flags;

static void step(struct registers *registers)
{
    u64 flags;

    asm volatile("pushf; pop %0" : "=r"(flags));
    check_report(!(flags & X86_EFLAGS_TF), __FILE__, __LINE__, "the handler runs without TF");
    frame_flags = registers->rflags;
    if (steps < ARRAY_SIZE(step_rip))
        step_rip[steps] = registers->rip;
    if (++steps >= 4)
        registers->rflags &= ~X86_EFLAGS_TF;
}

PROGRAM(trap_db_step)
{
    extern char step_1[], step_2[], step_3[], step_4[];
    unsigned long dr6;

    trap_set_handler(VECTOR_DB, step);
    hypercall_set_debugreg(6, 0);
    asm volatile("pushf; orl $0x100, (%%rsp); popf\n"
                 "nop\n"
                 ".globl step_1\nstep_1: mov $1, %%eax\n"
                 ".globl step_2\nstep_2: xor %%eax, %%eax\n"
                 ".globl step_3\nstep_3: inc %%eax\n"
                 ".globl step_4\nstep_4: nop\n" ::
                     : "rax", "cc", "memory");
    check_equal(steps, 4, "four steps");
    check_equal(step_rip[0], (u64)step_1, "first stop is after the instruction that follows popf");
    check_equal(step_rip[1], (u64)step_2, "second");
    check_equal(step_rip[2], (u64)step_3, "third");
    check_equal(step_rip[3], (u64)step_4, "fourth");
    check(frame_flags & X86_EFLAGS_TF, "the frame has TF");
    dr6 = hypercall_get_debugreg(6);
    check(dr6 & 0x4000, "DR6.BS is set (DR6 = 0x%lx)", dr6);
}
