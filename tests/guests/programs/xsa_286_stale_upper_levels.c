/* XSA-286: INVLPG-like flushes after changes of upper-level entries left stale translations. XSA-292: the same with PCID. XSA-294: shadow mode.
 * XSA-408: the same again. After an L4, L3 or L2 entry is replaced, one page's flush is enough to see it, and a frame's new owner is safe. */
#include "guest.h"

#define TEST_VA (0x300000000000UL)

PROGRAM(xsa_286_stale_upper_levels)
{
    u64 *first = page_alloc(), *second = page_alloc();
    static u64 saved[5];

    *first = 1;
    *second = 2;
    map_anywhere(TEST_VA, virt_to_mfn(second), PTE_DATA);
    for (int level = 2; level <= 4; level++)
        saved[level] = *pte_of(TEST_VA, level);
    check_equal(pte_write(pte_of(TEST_VA, 4), 0), 0, "take the tree away");
    map_anywhere(TEST_VA, virt_to_mfn(first), PTE_DATA);
    for (int level = 2; level <= 4; level++) {
        u64 *entry = pte_of(TEST_VA, level), own = *entry;

        check_equal(*(volatile u64 *)TEST_VA, 1, "the first page");
        check_equal(pte_write(entry, saved[level]), 0, "replace an upper entry");
        mmuext(MMUEXT_INVLPG_LOCAL, TEST_VA, 0);
        check_equal(*(volatile u64 *)TEST_VA, 2, "XSA-286: INVLPG_LOCAL is enough");
        check_equal(pte_write(entry, own), 0, "and back");
        mmuext(MMUEXT_INVLPG_ALL, TEST_VA, 0);
        check_equal(*(volatile u64 *)TEST_VA, 1, "XSA-292: INVLPG_ALL is enough");
        check_equal(pte_write(entry, 0), 0, "no entry");
        mmuext(MMUEXT_INVLPG_LOCAL, TEST_VA, 0);
        check_trap(TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(TEST_VA) : "rax", "memory"), VECTOR_PF, 0, "XSA-408: nothing is mapped");
        check_equal(pte_write(entry, own), 0, "the entry again");
        mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    }
}
