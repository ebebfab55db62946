/* XSA-58, XSA-242, XSA-291, XSA-299: a table whose validation fails half-way kept references, or gave up too many.
 * A table of each level with a bad last entry: refused, and all that came before is free again. */
#include "guest.h"

static void check_level(unsigned command, u64 *table, u64 *good, const char *what)
{
    for (int slot = 0; slot < 200; slot++)
        pte_write(&table[slot], make_pte(virt_to_mfn(good), PTE_TABLE));
    pte_write(&table[200], make_pte(virt_to_mfn(page_alloc()), PTE_TABLE | PTE_PSE));
    for (int i = 0; i < 3; i++)
        check(mmuext(command, virt_to_mfn(table), 0) < 0, "XSA-299: %s with a bad entry", what);
    check_equal(map_page(table, table, PTE_DATA), 0, "XSA-58: the table is plain");
    check_equal(map_page(good, good, PTE_DATA), 0, "XSA-242: what it referred to is plain");
    *good = 0x77;
    check_equal(map_page(good, good, PTE_READ_ONLY), 0, "and read-only again");
    pte_write(good, 0);
    pte_write(&table[200], 0);
    check_equal(map_page(table, table, PTE_READ_ONLY), 0, "the table too");
    check_equal(mmuext(command, virt_to_mfn(table), 0), 0, "XSA-291: without the bad entry it is good");
    check_equal(map_page(good, good, PTE_DATA), -XEN_EBUSY, "and refers");
    check_equal(pte_write(&table[5], make_pte(0xffffffff, PTE_TABLE)) < 0, 1, "XSA-291: a failed update of one entry");
    check_equal(table[5] & PTE_FRAME, (u64)virt_to_mfn(good) << 12, "keeps the old one");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(table), 0), 0, "unpin it");
    for (int slot = 0; slot < 200; slot++)
        pte_write(&table[slot], 0);
}

PROGRAM(xsa_058_failed_validation)
{
    u64 *l1 = table_alloc(), *l2 = table_alloc(), *l3 = table_alloc(), *l4 = table_alloc();

    check_level(MMUEXT_PIN_L2_TABLE, l2, l1, "an L2");
    check_level(MMUEXT_PIN_L3_TABLE, l3, l2, "an L3");
    check_level(MMUEXT_PIN_L4_TABLE, l4, l3, "an L4");
    check_equal(map_page(l4, l4, PTE_DATA), 0, "all is plain");
}
