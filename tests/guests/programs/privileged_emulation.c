/* Privileged instructions that Xen emulates for a PV kernel (and not for its user space). */
#include "guest.h"

USER_CODE(user_read_cr0, "mov %cr0, %rax\n syscall");
USER_CODE(user_rdmsr, "mov $0xc0000080, %ecx\n rdmsr\n syscall");
USER_CODE(user_wbinvd, "wbinvd\n syscall");
USER_CODE(user_cli, "cli\n syscall");

PROGRAM(privileged_emulation)
{
    u64 value;
    struct trap_record trap;

    asm volatile("mov %%cr0, %0" : "=r"(value));
    check_equal(value & 0x80000031, 0x80000031, "CR0: PE, ET, NE, PG");
    asm volatile("mov %%cr3, %0" : "=r"(value));
    check_equal(value >> 12, virt_to_mfn((void *)start_info->pt_base), "CR3 is the machine address of the L4");
    trap = TRAP_OF(MAY_FAULT("mov %%cr4, %%rax")::: "rax", "memory");
    check_equal(trap.kind, KIND_NONE, "CR4 can be read");
    TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(UNMAPPED) : "rax", "memory");
    asm volatile("mov %%cr2, %0" : "=r"(value));
    check_equal(value, UNMAPPED, "CR2 is the last fault's address");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%cr2")::"r"(0x1234UL) : "memory");
    check_equal(trap.kind, KIND_NONE, "CR2 can be written");
    check_equal(event_vcpu_info()->arch.cr2, 0x1234, "and arch_vcpu_info follows");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%cr3")::"r"((u64)virt_to_mfn((void *)start_info->pt_base) << 12) : "memory");
    check_equal(trap.kind, KIND_NONE, "CR3 can be written with the current root");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%cr3")::"r"((u64)virt_to_mfn(page_alloc()) << 12) : "memory");
    check_trap(trap, VECTOR_GP, 0, "but not with a page that is no page table");
    trap = TRAP_OF(MAY_FAULT("wbinvd")::: "memory");
    check_equal(trap.kind, KIND_NONE, "wbinvd is ignored");
    trap = TRAP_OF(MAY_FAULT("mov %0, %%cr8")::"r"(0UL) : "memory");
    check_equal(trap.kind, VECTOR_GP, "CR8 is not there");

    user_init();
    trap = user_run_code(user_read_cr0);
    check_trap(trap, VECTOR_GP, 0, "user: mov from CR0");
    trap = user_run_code(user_rdmsr);
    check_trap(trap, VECTOR_GP, 0, "user: rdmsr");
    trap = user_run_code(user_wbinvd);
    check_trap(trap, VECTOR_GP, 0, "user: wbinvd");
    trap = user_run_code(user_cli);
    check_trap(trap, VECTOR_GP, 0, "user: cli");
}
