/* XSA-234: unmapping took away the writable reference of a mapping that had become read-only. Here: an entry that is not what the grant mapped is left. */
#include "guest.h"
#include "grant.h"

static u8 window[2 * PAGE_SIZE] page_aligned;

PROGRAM(xsa_234_unmap_flags)
{
    u8 *first = page_alloc(), *second = page_alloc();
    grant_handle_t writable, readable;
    struct gnttab_unmap_and_replace replace = {.host_addr = (u64)window + PAGE_SIZE, .new_addr = (u64)window};

    grants_init();
    check_equal(map_page(first, first, PTE_READ_ONLY), 0, "the first page is mapped by its grant only");
    grant_give(8, virt_to_mfn(first), GTF_permit_access);
    grant_give(9, virt_to_mfn(second), GTF_permit_access);
    check_equal(grant_map(8, (u64)window, GNTMAP_host_map, &writable), GNTST_okay, "map it writable");
    check_equal(grant_map(9, (u64)window + PAGE_SIZE, GNTMAP_host_map | GNTMAP_readonly, &readable), GNTST_okay, "map the second read-only");
    replace.handle = readable;
    check_equal(hypercall_grant_table_op(GNTTABOP_unmap_and_replace, &replace, 1), 0, "unmap_and_replace");
    check_equal((s64)replace.status, GNTST_okay, "moves the first mapping over the second");
    check_equal(map_page(window, first, PTE_READ_ONLY), 0, "a plain read-only mapping where the first was");
    check_equal(grant_unmap(writable, (u64)window, 0), GNTST_general_error, "XSA-234: unmap of what the grant did not map");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(first), 0), -XEN_EINVAL, "the page is writable still, hence no page table");
}
