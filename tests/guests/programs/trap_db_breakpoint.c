/* Hardware breakpoints set by HYPERVISOR_set_debugreg: execution (fault, RF resumes) and data (trap). */
#include "guest.h"

static unsigned hits;
static u64 hit_rip;
static unsigned long hit_dr6;

static void hit(struct registers *registers)
{
    hits++;
    hit_rip = registers->rip;
    hit_dr6 = hypercall_get_debugreg(6);
    registers->rflags |= X86_EFLAGS_RF;
    hypercall_set_debugreg(6, 0xffff0ff0);
}

PROGRAM(trap_db_breakpoint)
{
    static volatile u64 watched[2];
    extern char break_here[], after_write[];

    trap_set_handler(VECTOR_DB, hit);
    check_equal(hypercall_set_debugreg(0, (u64)break_here), 0, "DR0");
    check_equal(hypercall_set_debugreg(7, 0x401), 0, "DR7: L0, execution");
    asm volatile("nop\n.globl break_here\nbreak_here: nop\n");
    check_equal(hits, 1, "the execution breakpoint hits once");
    check_equal(hit_rip, (u64)break_here, "RIP at the instruction");
    check_equal(hit_dr6 & 0xf, 1, "DR6.B0");

    check_equal(hypercall_set_debugreg(1, (u64)&watched[0]), 0, "DR1");
    check_equal(hypercall_set_debugreg(7, 0x400 | 1 << 2 | 0xd << 20), 0, "DR7: L1, write, 4 bytes");
    asm volatile("movl $5, %0\n.globl after_write\nafter_write:" : "=m"(watched[0]));
    check_equal(hits, 2, "the write breakpoint hits");
    check_equal(hit_rip, (u64)after_write, "RIP past the write");
    check_equal(hit_dr6 & 0xf, 2, "DR6.B1");
    check_equal(watched[0], 5, "the write happened");
    watched[1] = 1;
    (void)watched[0];
    check_equal(hits, 2, "neither another address nor a read hits");
    check_equal(hypercall_set_debugreg(7, 0x400), 0, "DR7 off");
    watched[0] = 6;
    check_equal(hits, 2, "no hit when off");
}
