/* fpu_taskswitch: the next FPU instruction gives #NM, and Xen clears TS when it delivers it. */
#include "guest.h"

static u64 read_cr0(void)
{
    u64 value;

    asm volatile("mov %%cr0, %0" : "=r"(value));
    return value;
}

PROGRAM(trap_nm)
{
    struct trap_record trap;

    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_equal(trap.kind, KIND_NONE, "FPU instructions work at the start");
    check_equal(hypercall_fpu_taskswitch(1), 0, "fpu_taskswitch(1)");
    check(read_cr0() & X86_CR0_TS, "CR0.TS reads 1");
    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_trap(trap, VECTOR_NM, 0, "x87 with TS");
    check(!(read_cr0() & X86_CR0_TS), "Xen cleared TS");
    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_equal(trap.kind, KIND_NONE, "and the instruction works now");
    hypercall_fpu_taskswitch(1);
    trap = TRAP_OF(MAY_FAULT("pxor %%xmm0, %%xmm0")::: "memory");
    check_trap(trap, VECTOR_NM, 0, "SSE with TS");
    hypercall_fpu_taskswitch(1);
    hypercall_fpu_taskswitch(0);
    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_equal(trap.kind, KIND_NONE, "fpu_taskswitch(0) ends it");
    hypercall_fpu_taskswitch(1);
    trap = TRAP_OF(MAY_FAULT("clts")::: "memory");
    check_equal(trap.kind, KIND_NONE, "clts is emulated");
    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_equal(trap.kind, KIND_NONE, "and clears TS");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%cr0")::"r"(read_cr0() | X86_CR0_TS) : "memory");
    check_equal(trap.kind, KIND_NONE, "mov to CR0 that changes TS only is emulated");
    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_trap(trap, VECTOR_NM, 0, "TS by mov to CR0");
}
