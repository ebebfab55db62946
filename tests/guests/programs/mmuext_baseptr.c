/* NEW_BASEPTR and NEW_USER_BASEPTR: another root for the kernel and for user space. */
#include "guest.h"

USER_CODE(read_data, "movq 0x401000, %rax\n syscall");

PROGRAM(mmuext_baseptr)
{
    u64 *root = table_alloc(), *kernel_root = (u64 *)start_info->pt_base, *second_user = table_alloc();
    u64 cr3, *l3 = table_alloc(), *l2 = table_alloc(), *l1 = table_alloc(), *page = page_alloc();
    struct trap_record trap;
    unsigned long va = 0x100000000000;

    pte_write(&root[511], kernel_root[511]);
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(root), 0), 0, "pin a second root");
    check_equal(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(root), 0), 0, "NEW_BASEPTR");
    asm volatile("mov %%cr3, %0" : "=r"(cr3));
    check_equal(cr3 >> 12, virt_to_mfn(root), "CR3 follows");
    check(machine_to_phys_mapping[virt_to_mfn(root)] == mfn_to_pfn(virt_to_mfn(root)), "the M2P is there too");
    check_equal(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(kernel_root), 0), 0, "the first root again");
    check_equal(mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(page), 0), -XEN_EINVAL, "a plain writable page is no root");
    check_equal(mmuext(MMUEXT_NEW_BASEPTR, 0xffffffffff, 0), -XEN_EINVAL, "nor a frame that does not exist");

    *page = 0x77;
    pte_write(&l1[0], make_pte(virt_to_mfn(page), PTE_DATA));
    pte_write(&l2[0], make_pte(virt_to_mfn(l1), PTE_TABLE));
    pte_write(&l3[0], make_pte(virt_to_mfn(l2), PTE_TABLE));
    check_equal(pte_write(&root[va >> 39], make_pte(virt_to_mfn(l3), PTE_TABLE)), 0, "change the second root, not in use now");
    check_trap(TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(va) : "rax", "memory"), VECTOR_PF, 0, "the first root does not have it");
    mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(root), 0);
    check_equal(*(volatile u64 *)va, 0x77, "the second has");
    mmuext(MMUEXT_NEW_BASEPTR, virt_to_mfn(kernel_root), 0);
    check_trap(TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(va) : "rax", "memory"), VECTOR_PF, 0, "and back: NEW_BASEPTR flushes the TLB");

    user_init();
    *(u64 *)user_data = 0x99;
    trap = user_run_code(read_data);
    check_equal(trap.registers.rax, 0x99, "user space in the first user root");
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(second_user), 0), 0, "pin an empty user root");
    check_equal(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(second_user), 0), 0, "NEW_USER_BASEPTR");
    trap = user_run_code(read_data);
    check_equal(trap.kind, VECTOR_PF, "user space faults in it");
    check_equal(trap.error & ~(u64)PF_FETCH, PF_USER, "with a user error code");
    check_equal(trap.cr2, USER_CODE_ADDRESS, "at its first instruction");
    check_equal(mmuext(MMUEXT_NEW_USER_BASEPTR, virt_to_mfn(user_root), 0), 0, "the first user root again");
    trap = user_run_code(read_data);
    check_equal(trap.registers.rax, 0x99, "runs");
    check_equal(mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0), 0, "no user root at all");
}
