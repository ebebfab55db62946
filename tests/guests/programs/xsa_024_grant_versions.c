/* XSA-24: GNTTABOP_get_status_frames with a large number looped for ever. XSA-26: switching versions corrupted the list of status pages.
 * XSA-255: switching to version 1 freed what was in use. XSA-379, XSA-387: status pages stayed mapped after they were freed.
 * XSA-382: the bounds of the status frames were not checked. XSA-384: setting up raced with them. */
#include "guest.h"
#include "grant.h"

static int status_frames(u32 count, u64 *list)
{
    struct gnttab_get_status_frames argument = {.dom = DOMID_SELF, .nr_frames = count};
    long result;

    set_xen_guest_handle(argument.frame_list, list);
    result = hypercall_grant_table_op(GNTTABOP_get_status_frames, &argument, 1);
    return result ? (int)result : argument.status;
}

PROGRAM(xsa_024_grant_versions)
{
    static u64 frames[512];
    static u8 window[PAGE_SIZE] page_aligned;
    u64 *page = page_alloc();
    grant_handle_t handle;
    long result;

    grants_init();
    check(status_frames(1, frames) < 0, "XSA-382: status frames in version 1");
    result = grant_set_version(2);
    check(result == 0 || result == -XEN_ENOSYS, "version 2");
    if (result)
        return;
    check_equal(status_frames(1, frames), GNTST_okay, "a status frame");
    check(status_frames(2, frames) < 0, "XSA-382: more than there are");
    check(status_frames(0x7fffffff, frames) < 0, "XSA-24: 2^31 - 1 of them");
    check(status_frames(~0U, frames) < 0, "XSA-24: 2^32 - 1 of them");
    check(status_frames(1, (u64 *)XEN_PRIVATE) < 0, "XSA-382: the list in Xen's memory");
    for (int i = 0; i < 50; i++)
        if (grant_set_version(1) || grant_set_version(2))
            check(false, "XSA-26: switch %d", i);
    check_equal(status_frames(1, frames), GNTST_okay, "the status frame");
    check_equal(map_frame(grant_statuses, frames[0], PTE_DATA), 0, "map it");
    result = grant_set_version(1);
    check(result == 0 || result == -XEN_EBUSY, "XSA-379: to version 1 while it is mapped: %ld", result);
    if (result == 0) {
        /* Whatever the mapping shows, the frame must be nobody else's. */
        static xen_pfn_t extents[64];
        struct xen_memory_reservation reservation = {.nr_extents = 1, .domid = DOMID_SELF};
        struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 8};
        static xen_pfn_t table_frames[8];
        unsigned again = 0;

        set_xen_guest_handle(setup.frame_list, table_frames);
        hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1);
        for (int i = 0; i < 8; i++)
            again += table_frames[i] == frames[0];
        for (int i = 0; i < 64; i++) {
            extents[i] = 0x100000 + i;
            set_xen_guest_handle(reservation.extent_start, &extents[i]);
            hypercall_memory_op(XENMEM_populate_physmap, &reservation);
            again += extents[i] == frames[0];
        }
        check_equal(again, 0, "XSA-379: the frame is not given out while it is mapped");
    }
    map_frame(grant_statuses, 0, 0);
    check_equal(grant_set_version(1), 0, "version 1 when nothing is mapped");
    check(map_frame(grant_statuses, frames[0], PTE_DATA) < 0, "XSA-387: a freed status frame can't be mapped");
    grant_give(30, virt_to_mfn(page), GTF_permit_access);
    check_equal(grant_map(30, (unsigned long)window, GNTMAP_host_map, &handle), GNTST_okay, "a grant in use");
    check_equal(grant_set_version(2), -XEN_EBUSY, "XSA-255: no switch then");
    check_equal(grant_unmap(handle, (unsigned long)window, 0), GNTST_okay, "unmap it");
    check_equal(grant_set_version(2), 0, "then it works");
    check_equal(grant_set_version(1), 0, "and back");
    check_equal(grant_set_version(0), -XEN_EINVAL, "version 0");
}
