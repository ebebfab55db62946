/* XSA-316: a map of another domain's grant that is refused for the wrong domain answered 1. Here: the status is GNTST_general_error. */
#include "guest.h"
#include "grant.h"

PROGRAM(xsa_316_grant_of_domain_zero)
{
    static u8 window[PAGE_SIZE] page_aligned;

    grants_init();
    for (grant_ref_t reference = 0; reference < 16; reference++) {
        struct gnttab_map_grant_ref map = {.host_addr = (u64)window, .flags = GNTMAP_host_map, .ref = reference, .dom = 0};

        check_equal(hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1), 0, "the operation");
        check_equal((s64)map.status, GNTST_general_error, "XSA-316: domain 0 granted nothing");
    }
}
