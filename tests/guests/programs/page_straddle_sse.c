/* A 16-byte store that crosses from a mapped page into one that is not: all or nothing. */
#include "guest.h"

static u8 window[2 * PAGE_SIZE] page_aligned;

PROGRAM(page_straddle_sse)
{
    u8 *first = page_alloc();
    u8 *edge = window + PAGE_SIZE;
    struct trap_record trap;
    u64 before = 0x8877665544332211;

    map_page(window, first, PTE_DATA);
    map_frame(edge, 0, 0);
    memcpy(first + PAGE_SIZE - 8, &before, 8);
    trap = TRAP_OF(MAY_FAULT("movdqu %%xmm0, (%0)")::"r"(edge - 8) : "memory");
    check_trap(trap, VECTOR_PF, PF_WRITE, "the fault");
    check_equal(trap.cr2, (u64)edge, "CR2 is in the second page");
    check(!memcmp(first + PAGE_SIZE - 8, &before, 8), "the first page is unchanged");
}
