/* Code written by the guest is what runs: after a plain write, through an alias, by COPY_PAGE, in another frame. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned, other_window[PAGE_SIZE] page_aligned;

/* mov $value, %eax; ret */
static void write_code(volatile u8 *at, u32 value)
{
    at[0] = 0xb8;
    at[1] = value;
    at[2] = value >> 8;
    at[3] = value >> 16;
    at[4] = value >> 24;
    at[5] = 0xc3;
}

static u32 run(const u8 *code)
{
    return ((u32(*)(void))code)();
}

PROGRAM(self_modifying_code)
{
    u8 *a = page_alloc(), *b = page_alloc();
    unsigned wrong = 0;

    map_page(window, a, PTE_CODE | PTE_RW);
    write_code(window, 1);
    check_equal(run(window), 1, "code written through its own mapping");
    write_code(window, 2);
    check_equal(run(window), 2, "rewritten there");
    write_code(a, 3);
    check_equal(run(window), 3, "rewritten through an alias");
    map_page(other_window, a, PTE_CODE);
    check_equal(run(other_window), 3, "runs at a second address");
    write_code(a, 4);
    check_equal(run(window) + run(other_window), 8, "both see a change");
    write_code(b, 5);
    check_equal(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(a), virt_to_mfn(b)), 0, "COPY_PAGE");
    check_equal(run(window), 5, "code copied by Xen");
    write_code(b, 6);
    map_page(window, b, PTE_CODE | PTE_RW);
    check_equal(run(window), 6, "another frame at the same address");
    for (u32 i = 100; i < 400; i++) {
        write_code(i & 1 ? b : window, i);
        wrong += run(window) != i;
    }
    check_equal(wrong, 0, "300 changes in a row, each way in turn");
}
