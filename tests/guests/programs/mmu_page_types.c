/* A page table is never writable, and a writable page never a page table (xen.h, "mmu_update"). */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

PROGRAM(mmu_page_types)
{
    u64 *page = page_alloc(), *table = table_alloc();
    unsigned long va = 0x200000000000 - (1UL << 30);

    check_equal(map_page(window, (void *)start_info->pt_base, PTE_DATA), -XEN_EBUSY, "a writable mapping of the L4");
    check_equal(map_page(window, (void *)start_info->pt_base, PTE_READ_ONLY), 0, "a read-only mapping of it");
    check(pte_write(pte_of(va, 4), make_pte(virt_to_mfn(page), PTE_TABLE)) < 0, "a writable page as an L3");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0), -XEN_EINVAL, "a writable page pinned as an L1");
    check(pte_write(pte_of(va, 4), make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_TABLE)) < 0, "the L4 as an L3");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0), 0, "a read-only page pinned as an L1");
    check(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(table), 0) < 0, "an L1 can't be an L2");
    check_equal(map_page(table, table, PTE_DATA), -XEN_EBUSY, "nor become writable");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(table), 0), 0, "unpin it");
    check_equal(map_page(table, table, PTE_DATA), 0, "now it may be writable");
    check_equal(mmuext(MMUEXT_CLEAR_PAGE, virt_to_mfn((void *)start_info->pt_base), 0), -XEN_EINVAL, "CLEAR_PAGE of a page table");
    check_equal(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn((void *)start_info->pt_base), virt_to_mfn(page)), -XEN_EINVAL,
                "COPY_PAGE over a page table");

    u64 *bad = table_alloc();

    check_equal(pte_write(&bad[7], make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_DATA)), 0, "a plain page holds any value");
    check(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(bad), 0) < 0, "but is refused as an L1 with a writable entry for the L4");
}
