/* XSA-255: status frames of version 2 were freed by a switch to version 1 while they were mapped. Here: -EBUSY until they are unmapped. */
#include "guest.h"
#include "grant.h"

PROGRAM(xsa_255_status_frames)
{
    static u8 window[PAGE_SIZE] page_aligned;
    u64 frames[1];
    struct gnttab_get_status_frames get = {.dom = DOMID_SELF, .nr_frames = 1};

    check_equal(grant_set_version(2), 0, "version 2");
    grants_init();
    set_xen_guest_handle(get.frame_list, frames);
    check_equal(hypercall_grant_table_op(GNTTABOP_get_status_frames, &get, 1), 0, "the status frames");
    check_equal((s64)get.status, GNTST_okay, "their status");
    check_equal(map_frame(window, frames[0], PTE_READ_ONLY), 0, "map one");
    check_equal(grant_set_version(1), -XEN_EBUSY, "XSA-255: version 1 while it is mapped");
    check_equal(map_frame(window, 0, 0), 0, "unmap it");
    check_equal(grant_set_version(1), 0, "version 1");
}
