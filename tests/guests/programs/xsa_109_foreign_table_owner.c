/* XSA-109: mmu_update, mmuext_op and update_va_mapping_otherdomain on behalf of another domain lacked checks. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

PROGRAM(xsa_109_foreign_table_owner)
{
    static const unsigned domains[] = {0, 77, DOMID_IO, DOMID_XEN, DOMID_COW, DOMID_INVALID, DOMID_IDLE};
    u64 *page = page_alloc();
    struct mmu_update update = {.ptr = pte_machine_address(pte_of((unsigned long)window, 1)), .val = make_pte(virt_to_mfn(page), PTE_DATA)};
    struct mmuext_op pin = {.cmd = MMUEXT_PIN_L1_TABLE, .arg1.mfn = virt_to_mfn(table_alloc())};
    u64 before = *pte_of((unsigned long)window, 1);

    for (size_t i = 0; i < ARRAY_SIZE(domains); i++) {
        unsigned domain = domains[i];

        check(hypercall_mmuext_op(&pin, 1, NULL, domain) < 0, "XSA-109: mmuext_op, frames of 0x%x", domain);
        check(hypercall_mmuext_op(&pin, 1, NULL, (domain + 1) << 16 | DOMID_SELF) < 0, "XSA-109: mmuext_op, tables of 0x%x", domain);
        check(hypercall_mmu_update(&update, 1, NULL, (domain + 1) << 16 | DOMID_SELF) < 0, "XSA-109: mmu_update, tables of 0x%x", domain);
        check(HYPERCALL(update_va_mapping_otherdomain, window, make_pte(virt_to_mfn(page), PTE_DATA), 0, domain) < 0,
              "XSA-109: update_va_mapping_otherdomain of 0x%x", domain);
        update.val = make_pte(virt_to_mfn(page), PTE_DATA);
        check(hypercall_mmu_update(&update, 1, NULL, domain) < 0, "XSA-109: mmu_update, own frame as one of 0x%x", domain);
        check(hypercall_mmuext_op(&pin, 0x80000001, NULL, domain) < 0, "XSA-109: a forged continuation, 0x%x", domain);
    }
    check_equal(*pte_of((unsigned long)window, 1), before, "nothing was changed");
}
