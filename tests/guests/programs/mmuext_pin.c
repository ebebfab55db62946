/* Pinning and unpinning page tables of each level. */
#include "guest.h"

PROGRAM(mmuext_pin)
{
    u64 *l1 = table_alloc(), *l2 = table_alloc(), *l3 = table_alloc(), *l4 = table_alloc(), *page = page_alloc();

    pte_write(&l1[0], make_pte(virt_to_mfn(page), PTE_DATA));
    pte_write(&l2[0], make_pte(virt_to_mfn(l1), PTE_TABLE));
    pte_write(&l3[0], make_pte(virt_to_mfn(l2), PTE_TABLE));
    pte_write(&l4[0], make_pte(virt_to_mfn(l3), PTE_TABLE));
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(l1), 0), 0, "pin an L1");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(l1), 0), -XEN_EINVAL, "twice");
    check_equal(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(l2), 0), 0, "pin an L2 above it");
    check_equal(mmuext(MMUEXT_PIN_L3_TABLE, virt_to_mfn(l3), 0), 0, "pin an L3");
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(l4), 0), 0, "pin an L4");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l1), 0), 0, "unpin the L1, which stays in use");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l1), 0), -XEN_EINVAL, "unpin it twice");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l4), 0), 0, "unpin the L4");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l3), 0), 0, "unpin the L3");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l2), 0), 0, "unpin the L2");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(page), 0), -XEN_EINVAL, "unpin a page that never was");
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, 0xffffffffff, 0), -XEN_EINVAL, "pin a frame that does not exist");
    check_equal(pte_write(&l4[0], 0), 0, "the tables are plain pages again");
    check_equal(map_page(l4, l4, PTE_DATA), 0, "and can be mapped writable");
    l4[511] = 7;
    check_equal(mmuext(99, 0, 0), -XEN_ENOSYS, "an unknown operation");
}
