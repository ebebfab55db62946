/* XSA-379, XSA-384, XSA-387: frames of the grant table's statuses that a guest has placed in its physical memory stay its own while it changes the version of the table. */
#include "grant.h"

static long set_version(unsigned version)
{
    struct gnttab_set_version set = {.version = version};

    return HYPERCALL(grant_table_op, GNTTABOP_set_version, &set, 1);
}

PROGRAM(xsa_379_status_frames)
{
    unsigned long gfn = FREE_HOLE >> 12;
    volatile u32 *window = (volatile u32 *)FREE_HOLE;
    long result;

    check_equal(physmap_add(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status, gfn), -XEN_EINVAL, "version 1 has no statuses");
    check_equal(set_version(2), 0, "version 2");
    check_equal(physmap_add(XENMAPSPACE_grant_table, 0, gfn + 1), 0, "place the table");
    check_equal(physmap_add(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status, gfn), 0, "place its statuses");
    check_equal(window[0], 0, "they are zero");
    check_equal(physmap_add(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status | 0xffff, gfn + 2), -XEN_EINVAL, "statuses beyond all");
    for (unsigned round = 0; round < 20; round++) {
        result = set_version(1);
        check(result == 0 || result == -XEN_EBUSY, "back to version 1: refused or done (%ld)", result);
        if (!result) {
            check_equal(window[0], 0xffffffff, "then they are gone from the physical memory");
            check_equal(set_version(2), 0, "version 2 again");
            physmap_add(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status, gfn);
        }
        check_equal(physmap_remove(gfn), 0, "take them away");
        check_equal(set_version(1), 0, "version 1");
        check_equal(window[0], 0xffffffff, "they are not seen any more");
        check_equal(set_version(2), 0, "version 2");
        check_equal(physmap_add(XENMAPSPACE_grant_table, XENMAPIDX_grant_table_status, gfn), 0, "place them again");
    }
}
