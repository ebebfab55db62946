/* XSA-7: SYSRET to a non-canonical address faults with the user's stack in the hypervisor. Here: `syscall` as the last instruction of the lower
 * half, and returns by HYPERVISOR_iret, with and without VGCF_in_syscall, to the address after it: each ends in the failsafe callback. */
#include "guest.h"

#define LAST_PAGE 0x00007ffffffff000UL
#define LAST_SYSCALL 0x00007ffffffffffeUL

static struct registers back;

static void failed(struct registers *registers)
{
    trap_remember(registers);
    /* Go on in the kernel, where how_return() left off. */
    *registers = back;
}

static void how_return(unsigned long flags, u64 rip)
{
    struct iret_context context = {.rflags = X86_EFLAGS_MBS, .rip = rip, .cs = FLAT_USER_CS64, .rsp = USER_STACK_TOP - 64,
                                   .ss = FLAT_USER_SS64, .flags = flags};

    trap_forget();
    back = (struct registers){.cs = FLAT_KERNEL_CS & ~3, .ss = FLAT_KERNEL_SS, .rflags = X86_EFLAGS_MBS, .saved_upcall_mask = 1};
    asm volatile("mov %%rbx, %[rbx]\n mov %%rbp, %[rbp]\n mov %%r12, %[r12]\n mov %%r13, %[r13]\n mov %%r14, %[r14]\n mov %%r15, %[r15]\n"
                 "mov %%rsp, %[rsp]\n lea 1f(%%rip), %%rcx\n mov %%rcx, %[rip]\n"
                 "mov %[context], %%rsp\n mov %[iret], %%eax\n syscall\n1:\n"
                 : [rbx] "=m"(back.rbx), [rbp] "=m"(back.rbp), [r12] "=m"(back.r12), [r13] "=m"(back.r13), [r14] "=m"(back.r14),
                   [r15] "=m"(back.r15), [rsp] "=m"(back.rsp), [rip] "=m"(back.rip)
                 : [context] "r"(&context), [iret] "i"(__HYPERVISOR_iret), "m"(context)
                 : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory");
    check_equal(trap_record.kind, KIND_FAILSAFE, flags ? "XSA-7: SYSRET to a non-canonical address" : "XSA-7: IRET to a non-canonical address");
    check_equal(trap_record.registers.rip, rip, "the frame has the address");
}

PROGRAM(xsa_007_sysret_non_canonical)
{
    u8 *page = page_alloc();
    u64 *l3 = table_alloc(), *l2 = table_alloc(), *l1 = table_alloc();
    struct registers registers;
    struct trap_record trap;

    user_init();
    page[4094] = 0x0f;
    page[4095] = 0x05;
    pte_write(&l1[511], make_pte(virt_to_mfn(page), PTE_CODE | PTE_US));
    pte_write(&l2[511], make_pte(virt_to_mfn(l1), PTE_TABLE));
    pte_write(&l3[511], make_pte(virt_to_mfn(l2), PTE_TABLE));
    check_equal(pte_write(&user_root[255], make_pte(virt_to_mfn(l3), PTE_TABLE)), 0, "map the last page of the lower half");
    registers = user_registers();
    registers.rip = LAST_SYSCALL;
    trap = user_run((char *)page, (char *)page, registers);
    check_equal(trap.kind, KIND_SYSCALL, "syscall at the very end of the lower half");
    check_equal(trap.registers.rip, NON_CANONICAL, "the kernel sees the next address");
    trap_set_handler(KIND_FAILSAFE, failed);
    how_return(VGCF_in_syscall, NON_CANONICAL);
    how_return(0, NON_CANONICAL);
    how_return(VGCF_in_syscall, 0xffff7fffffffffffUL);
}
