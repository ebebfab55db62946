/* XSA-185: a recursive L3 let 32-bit guests write their tables. XSA-240: linear tables could be nested without end, and their release recursed.
 * XSA-309: their counts overflowed. XSA-286: INVLPG left stale linear mappings. XSA-243: self-linear tables.
 * Xen allows a read-only self reference in an L4 or none; never a writable one, never a chain. */
#include "guest.h"

PROGRAM(xsa_185_recursive_tables)
{
    u64 *tables[6], *root = (u64 *)start_info->pt_base;
    unsigned linked = 0;

    check(pte_write(&root[300], make_pte(virt_to_mfn(root), PTE_TABLE)) < 0, "XSA-185: a writable self reference of the L4");
    check(pte_write(&root[20], make_pte(virt_to_mfn(root), PTE_TABLE)) < 0, "XSA-185: a writable self reference in the lower half");
    for (int level = 2; level <= 4; level++) {
        const unsigned command = level == 2 ? MMUEXT_PIN_L2_TABLE : level == 3 ? MMUEXT_PIN_L3_TABLE : MMUEXT_PIN_L4_TABLE;
        u64 *self = table_alloc();

        check_equal(pte_write(&self[3], make_pte(virt_to_mfn(self), PTE_TABLE)), 0, "a plain page with its own frame");
        check(mmuext(command, virt_to_mfn(self), 0) < 0, "XSA-185: level %d with a writable self reference", level);
        pte_write(&self[3], 0);
        for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
            tables[i] = table_alloc();
            check_equal(mmuext(command, virt_to_mfn(tables[i]), 0), 0, "pin an empty table");
        }
        linked = 0;
        for (size_t i = 0; i + 1 < ARRAY_SIZE(tables); i++)
            linked += pte_write(&tables[i + 1][7], make_pte(virt_to_mfn(tables[i]), PTE_TABLE & ~PTE_RW)) == 0;
        check(linked <= ARRAY_SIZE(tables) / 2, "XSA-240: a chain of level %d tables was accepted (%u links)", level, linked);
        for (size_t i = ARRAY_SIZE(tables); i-- > 0;)
            check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(tables[i]), 0), 0, "XSA-309: unpin");
        for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
            check_equal(map_page(tables[i], tables[i], PTE_DATA), 0, "XSA-309: no reference is left");
    }
    pte_write(&root[20], make_pte(virt_to_mfn(root), PTE_P | PTE_US));
    check(TRAP_OF(MAY_FAULT("movq $0, (%0)")::"r"((20UL << 39) | (20UL << 30) | (20UL << 21) | (20UL << 12)) : "memory").kind == VECTOR_PF,
          "XSA-286: a linear mapping, if there is one, is not writable");
    pte_write(&root[20], 0);
}
