/* #PF in kernel mode: error codes, CR2 in arch_vcpu_info, RIP. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

static void jump_to_window(void)
{
    ((void (*)(void))window)();
}

static void jump_to_unmapped(void)
{
    ((void (*)(void))UNMAPPED)();
}

static void jump_to_non_canonical(void)
{
    asm volatile("jmp *%0" ::"r"(NON_CANONICAL));
}

PROGRAM(trap_pf_kernel)
{
    struct trap_record trap;
    u8 *page = page_alloc();
    extern char at_read[];

    trap = TRAP_OF(".globl at_read\nat_read:\n" MAY_FAULT("movb (%0), %%al")::"r"(UNMAPPED + 0x123) : "rax", "memory");
    check_trap(trap, VECTOR_PF, 0, "read of an unmapped address");
    check_equal(trap.cr2, UNMAPPED + 0x123, "CR2");
    check_equal(trap.registers.rip, (u64)at_read, "RIP");
    trap = TRAP_OF(MAY_FAULT("movb $1, (%0)")::"r"(UNMAPPED) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "write to an unmapped address");

    page[0] = 0xc3; /* ret */
    check_equal(map_page(window, page, PTE_READ_ONLY), 0, "map read-only, NX");
    trap = TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(window) : "rax", "memory");
    check_equal(trap.kind, KIND_NONE, "read of a read-only page");
    trap = TRAP_OF(MAY_FAULT("movb $1, 5(%0)")::"r"(window) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "write to a read-only page");
    check_equal(trap.cr2, (u64)window + 5, "CR2");
    trap = trap_of_call(jump_to_window);
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_FETCH, "execution of an NX page");
    check_equal(trap.registers.rip, (u64)window, "RIP is the target");
    check_equal(trap.cr2, (u64)window, "CR2 too");
    check_equal(map_page(window, page, PTE_CODE), 0, "map executable");
    trap = trap_of_call(jump_to_window);
    check_equal(trap.kind, KIND_NONE, "and it runs");
    check_equal(map_frame(window, 0, 0), 0, "unmap");
    trap = trap_of_call(jump_to_window);
    check_equal(trap.kind, VECTOR_PF, "execution of an unmapped page");
    check_equal(trap.error & ~(u64)PF_FETCH, 0, "error code, but for the fetch bit");
    trap = trap_of_call(jump_to_unmapped);
    check_equal(trap.cr2, UNMAPPED, "CR2 of a jump into nothing");

    trap = TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(NON_CANONICAL) : "rax", "memory");
    check_trap(trap, VECTOR_GP, 0, "read of a non-canonical address");
    trap = trap_of_call(jump_to_non_canonical);
    check_trap(trap, VECTOR_GP, 0, "jump to a non-canonical address");

    trap = TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(HYPERVISOR_VIRT_START) : "rax", "memory");
    check_equal(trap.kind, KIND_NONE, "the M2P can be read");
    trap = TRAP_OF(MAY_FAULT("movq $0, (%0)")::"r"(HYPERVISOR_VIRT_START) : "memory");
    check_equal(trap.kind, VECTOR_PF, "but not written");
    check_equal(trap.error & PF_WRITE, PF_WRITE, "with a write error code");
    trap = TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(0xffff830000000000UL) : "rax", "memory");
    check_equal(trap.kind, VECTOR_PF, "Xen's directmap can't be read");
    check_equal(trap.error & PF_WRITE, 0, "with a read error code");
}
