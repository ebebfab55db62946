/* XSA-18: GNTTABOP_swap_grant_ref did not check its references. XSA-134: nor that there is a table, nor that the references differ. */
#include "guest.h"
#include "grant.h"

static int swap(u32 a, u32 b)
{
    struct gnttab_swap_grant_ref argument = {.ref_a = a, .ref_b = b};
    long result = hypercall_grant_table_op(GNTTABOP_swap_grant_ref, &argument, 1);

    return result ? (int)result : argument.status;
}

PROGRAM(xsa_018_swap_grants)
{
    static const u32 beyond[] = {512, 4096, 32768, 1 << 20, 0x7fffffff, 0x80000000, ~0U};
    static u8 window[PAGE_SIZE] page_aligned;
    u64 *page = page_alloc();
    grant_handle_t handle;

    check(swap(100, 200) <= 0, "XSA-134: before the table is set up");
    grants_init();
    for (size_t i = 0; i < ARRAY_SIZE(beyond); i++) {
        check(swap(10, beyond[i]) < 0, "XSA-18: with reference %u", beyond[i]);
        check(swap(beyond[i], 10) < 0, "XSA-18: with reference %u first", beyond[i]);
        check(swap(beyond[i], beyond[i]) < 0, "XSA-134: %u with itself", beyond[i]);
    }
    grant_give(20, virt_to_mfn(page), GTF_permit_access);
    check_equal(swap(20, 20), GNTST_okay, "XSA-134: a reference with itself");
    check_equal(grant_flags(20), GTF_permit_access, "is as before");
    check_equal(swap(20, 21), GNTST_okay, "two references");
    check_equal(grant_table.v1[21].frame, virt_to_mfn(page), "are swapped");
    check_equal(grant_flags(20), GTF_invalid, "both");
    check_equal(grant_map(21, (unsigned long)window, GNTMAP_host_map, &handle), GNTST_okay, "map one");
    check(swap(20, 21) < 0, "XSA-134: one in use can't be swapped");
    check_equal(grant_unmap(handle, (unsigned long)window, 0), GNTST_okay, "unmap it");
    check_equal(swap(20, 21), GNTST_okay, "then it can");
}
