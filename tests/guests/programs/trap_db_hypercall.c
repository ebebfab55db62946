/* Single stepping over a hypercall: the step after `syscall` is reported once, behind it, and the hypercall runs as always. */
#include "guest.h"

static unsigned steps;
static u64 step_rip[16];

static void step(struct registers *registers)
{
    if (steps < ARRAY_SIZE(step_rip))
        step_rip[steps] = registers->rip;
    if (++steps == ARRAY_SIZE(step_rip))
        registers->rflags &= ~X86_EFLAGS_TF;
}

PROGRAM(trap_db_hypercall)
{
    extern char stepped_call[], stepped_after[];
    long result;
    unsigned long a1 = XENVER_version, a2 = 0;
    unsigned in_call = 0;

    trap_set_handler(VECTOR_DB, step);
    asm volatile("pushf; orl $0x100, (%%rsp); popf\n"
                 "nop\n"
                 ".globl stepped_call\nstepped_call: syscall\n"
                 ".globl stepped_after\nstepped_after: nop\n"
                 "nop\n"
                 "pushf; andl $~0x100, (%%rsp); popf\n"
                 : "=a"(result), "+D"(a1), "+S"(a2)
                 : "0"(__HYPERVISOR_xen_version)
                 : "rcx", "rdx", "r8", "r9", "r10", "r11", "memory", "cc");
    check_equal(result, 0x40011, "the hypercall's result");
    check(steps >= 4, "steps before and after it (%u)", steps);
    check_equal(step_rip[0], (u64)stepped_call, "the first is at the syscall");
    for (unsigned i = 0; i < steps && i < ARRAY_SIZE(step_rip); i++)
        in_call += step_rip[i] > (u64)stepped_call && step_rip[i] < (u64)stepped_after;
    check_equal(in_call, 0, "none is inside it");
    check(step_rip[1] == (u64)stepped_after || step_rip[1] == (u64)stepped_after + 1, "the next is behind it");
}
