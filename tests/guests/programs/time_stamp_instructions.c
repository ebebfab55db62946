/* RDTSC, RDTSCP and RDPMC: CR4.TSD is the guest kernel's word for its user space, TSC_AUX is the guest's, there are no counters. */
#include "guest.h"

USER_CODE(user_rdtsc, "rdtsc\n syscall");
USER_CODE(user_rdtscp, "rdtscp\n mov %ecx, %ebx\n syscall");
USER_CODE(user_rdpmc, "xor %ecx, %ecx\n rdpmc\n syscall");

static u64 rdtscp(u32 *aux)
{
    u32 low, high;

    asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(*aux));
    return (u64)high << 32 | low;
}

PROGRAM(time_stamp_instructions)
{
    struct trap_record trap;
    u64 before, after, cr4;
    u32 aux;

    asm volatile("wrmsr" ::"c"(0xc0000103), "a"(0x1234), "d"(0));
    before = rdtsc();
    after = rdtscp(&aux);
    check(after > before, "RDTSCP goes on where RDTSC was");
    check_equal(aux, 0x1234, "and gives TSC_AUX");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(0xc0000103), "a"(0), "d"(1) : "memory");
    check_trap(trap, VECTOR_GP, 0, "TSC_AUX has 32 bits");
    trap = TRAP_OF(MAY_FAULT("rdpmc")::"c"(0) : "rax", "rdx", "memory");
    check_trap(trap, VECTOR_GP, 0, "RDPMC");
    user_init();
    trap = user_run_code(user_rdpmc);
    check_trap(trap, VECTOR_GP, 0, "user: RDPMC");
    trap = user_run_code(user_rdtscp);
    check_equal(trap.kind, KIND_SYSCALL, "user: RDTSCP");
    check_equal(trap.registers.rbx, 0x1234, "TSC_AUX");

    asm volatile("mov %0, %%cr4" ::"r"(4UL) : "memory");
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    check_equal(cr4, 0x664, "CR4: TSD, and what Xen has set of PAE, MCE, OSFXSR, OSXMMEXCPT");
    trap = user_run_code(user_rdtsc);
    check_trap(trap, VECTOR_GP, 0, "user: RDTSC with CR4.TSD");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS, "RIP at it");
    trap = user_run_code(user_rdtscp);
    check_trap(trap, VECTOR_GP, 0, "user: RDTSCP with CR4.TSD");
    before = after;
    after = rdtsc();
    check(after > before, "the kernel may read it");
    before = after;
    after = rdtscp(&aux);
    check(after > before && aux == 0x1234, "by RDTSCP, too");
    asm volatile("mov %0, %%cr4" ::"r"(0UL) : "memory");
    trap = user_run_code(user_rdtsc);
    check_equal(trap.kind, KIND_SYSCALL, "user: RDTSC without CR4.TSD");
}
