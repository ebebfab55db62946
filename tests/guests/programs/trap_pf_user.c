/* #PF in user mode: the user bit in error codes, supervisor pages, write protection, NX. */
#include "guest.h"

USER_CODE(read_data, "movq 0x401000, %rax\n syscall");
USER_CODE(write_data, "movq $7, 0x401008\n syscall");
USER_CODE(read_unmapped, "mov 0x500123, %al\n syscall");
USER_CODE(write_unmapped, "movb $1, 0x500000\n syscall");
USER_CODE(jump_data, "mov $0x401000, %eax\n jmp *%rax");
USER_CODE(read_kernel, "movabs $0xffffffff80100000, %rax\n mov (%rax), %al\n syscall");

static void map_data(u64 flags)
{
    check_equal(pte_write(user_pte(USER_DATA_ADDRESS), make_pte(virt_to_mfn(user_data), flags)), 0, "change the data page's mapping");
    mmuext(MMUEXT_INVLPG_LOCAL, USER_DATA_ADDRESS, 0);
}

PROGRAM(trap_pf_user)
{
    struct trap_record trap;

    user_init();
    *(u64 *)user_data = 0x5678;
    trap = user_run_code(read_data);
    check_equal(trap.kind, KIND_SYSCALL, "user reads its data");
    check_equal(trap.registers.rax, 0x5678, "and sees what the kernel wrote");
    trap = user_run_code(write_data);
    check_equal(trap.kind, KIND_SYSCALL, "user writes its data");
    check_equal(*(volatile u64 *)(user_data + 8), 7, "and the kernel sees it");
    trap = user_run_code(read_unmapped);
    check_trap(trap, VECTOR_PF, PF_USER, "read of an unmapped address");
    check_equal(trap.cr2, 0x500123, "CR2");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS, "RIP");
    check_equal(trap.registers.cs, FLAT_USER_CS64, "CS shows user context (RPL 3)");
    check_equal(trap.registers.ss, FLAT_USER_SS64, "SS");
    check_equal(trap.registers.rsp, USER_STACK_TOP - 64, "RSP");
    trap = user_run_code(write_unmapped);
    check_trap(trap, VECTOR_PF, PF_USER | PF_WRITE, "write to an unmapped address");
    trap = user_run_code(jump_data);
    check_trap(trap, VECTOR_PF, PF_USER | PF_PRESENT | PF_FETCH, "execution of an NX page");
    check_equal(trap.cr2, USER_DATA_ADDRESS, "CR2");
    trap = user_run_code(read_kernel);
    check_equal(trap.kind, VECTOR_PF, "a kernel address is not in the user's page tables");
    check_equal(trap.error & PF_USER, PF_USER, "user bit");

    map_data(PTE_READ_ONLY | PTE_US);
    trap = user_run_code(write_data);
    check_trap(trap, VECTOR_PF, PF_USER | PF_PRESENT | PF_WRITE, "write to a read-only page");
    trap = user_run_code(read_data);
    check_equal(trap.kind, KIND_SYSCALL, "read of a read-only page");
    map_data(0);
    trap = user_run_code(read_data);
    check_trap(trap, VECTOR_PF, PF_USER, "read after the kernel unmapped the page");
}
