/* Accesses and instructions that cross from a mapped page into one that is not: all or nothing. */
#include "guest.h"

static u8 window[2 * PAGE_SIZE] page_aligned;

static u8 *code_end;

static void run_code(void)
{
    ((void (*)(void))code_end)();
}

PROGRAM(page_straddle)
{
    u8 *first = page_alloc(), *second = page_alloc();
    u8 *edge = window + PAGE_SIZE;
    struct trap_record trap;
    u64 before = 0x8877665544332211;

    map_page(window, first, PTE_DATA);
    map_frame(edge, 0, 0);
    memcpy(first + PAGE_SIZE - 8, &before, 8);

    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(edge - 4), "r"(~0UL) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "a write that crosses");
    check_equal(trap.cr2, (u64)edge, "CR2 is in the second page");
    check(!memcmp(first + PAGE_SIZE - 8, &before, 8), "the first page is unchanged");
    trap = TRAP_OF(MAY_FAULT("movq (%0), %%rax")::"r"(edge - 4) : "rax", "memory");
    check_trap(trap, VECTOR_PF, 0, "a read that crosses");
    check_equal(trap.cr2, (u64)edge, "CR2");
    trap = TRAP_OF(MAY_FAULT("lock incq (%0)")::"r"(edge - 4) : "memory", "cc");
    check_equal(trap.kind, VECTOR_PF, "a locked increment that crosses");
    check(!memcmp(first + PAGE_SIZE - 8, &before, 8), "the first page is unchanged");

    map_page(edge, second, PTE_DATA);
    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(edge - 4), "r"(0x0807060504030201UL) : "memory");
    check_equal(trap.kind, KIND_NONE, "with both pages mapped");
    check(first[PAGE_SIZE - 1] == 4 && second[0] == 5, "each has its part");
    u64 value = 0x0102030405060708;

    asm volatile("lock xaddq %0, (%1)" : "+r"(value) : "r"(edge - 4) : "memory", "cc");
    check_equal(value, 0x0807060504030201, "a locked exchange-and-add that crosses");

    /* mov $imm32, %eax; ret, split after two bytes */
    static const u8 code[] = {0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3};

    memcpy(first + PAGE_SIZE - 2, code, 2);
    memcpy(second, code + 2, 4);
    map_page(window, first, PTE_CODE);
    map_frame(edge, 0, 0);
    code_end = edge - 2;
    trap = trap_of_call(run_code);
    check_equal(trap.kind, VECTOR_PF, "an instruction that crosses");
    check_equal(trap.registers.rip, (u64)code_end, "RIP is at it");
    check_equal(trap.cr2, (u64)edge, "CR2 is in the second page");
    map_page(edge, second, PTE_CODE);
    trap = trap_of_call(run_code);
    check_equal(trap.kind, KIND_NONE, "it runs when both are there");
    map_page(edge, second, PTE_READ_ONLY);
    trap = trap_of_call(run_code);
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_FETCH, "an instruction that crosses into an NX page");
    check_equal(trap.cr2, (u64)edge, "CR2");
}
