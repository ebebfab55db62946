/* Grant table version 1: query, setup, mapping the table, the entries that the toolstack seeds. */
#include "guest.h"

static struct grant_entry_v1 table[512] page_aligned;

PROGRAM(grant_table_setup)
{
    struct gnttab_query_size query = {.dom = DOMID_SELF};
    struct gnttab_get_version version = {.dom = DOMID_SELF};
    xen_pfn_t frames[64] = {0};
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1};
    struct gnttab_set_version set = {.version = 3};

    check_equal(hypercall_grant_table_op(GNTTABOP_query_size, &query, 1), 0, "query_size");
    check_equal((s64)query.status, GNTST_okay, "its status");
    check(query.nr_frames >= 1, "the table has %u frames", query.nr_frames);
    check(query.max_nr_frames >= query.nr_frames && query.max_nr_frames <= 64, "of at most %u", query.max_nr_frames);
    check_equal(hypercall_grant_table_op(GNTTABOP_get_version, &version, 1), 0, "get_version");
    check_equal(version.version, 1, "version 1");
    set_xen_guest_handle(setup.frame_list, frames);
    check_equal(hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "setup_table");
    check_equal((s64)setup.status, GNTST_okay, "its status");
    check(frames[0], "frame 0x%lx", frames[0]);
    check_equal(map_frame(table, frames[0], PTE_DATA), 0, "map it");
    check_equal(table[GNTTAB_RESERVED_CONSOLE].frame, start_info->console.domU.mfn, "entry 0 grants the console page");
    check_equal(table[GNTTAB_RESERVED_CONSOLE].domid, 0, "to domain 0");
    check_equal(table[GNTTAB_RESERVED_CONSOLE].flags & GTF_type_mask, GTF_permit_access, "for access");
    check_equal(table[GNTTAB_RESERVED_XENSTORE].frame, start_info->store_mfn, "entry 1 grants the store page");
    check_equal(table[GNTTAB_RESERVED_XENSTORE].domid, 0, "to domain 0");
    check_equal(table[GNTTAB_RESERVED_XENSTORE].flags & GTF_type_mask, GTF_permit_access, "for access");
    table[100] = (struct grant_entry_v1){.domid = 0, .frame = 0x123};
    check_equal(*(volatile u32 *)&table[100].frame, 0x123, "entries can be written");

    setup.nr_frames = query.max_nr_frames + 1;
    check_equal(hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "setup_table of too many frames");
    check_equal((s64)setup.status, GNTST_general_error, "its status");
    setup.nr_frames = 2;
    check_equal(hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "setup_table of two frames");
    check_equal((s64)setup.status, GNTST_okay, "its status");
    check(frames[1] && frames[1] != frames[0], "a second frame");
    hypercall_grant_table_op(GNTTABOP_query_size, &query, 1);
    check(query.nr_frames >= 2, "the table has grown");
    setup.dom = 0;
    check_equal(hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "setup_table of domain 0");
    check_equal((s64)setup.status, GNTST_permission_denied, "its status");
    setup.dom = 0x7000;
    check_equal(hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1), 0, "setup_table of no domain");
    check_equal((s64)setup.status, GNTST_bad_domain, "its status");
    check_equal(hypercall_grant_table_op(GNTTABOP_set_version, &set, 1), -XEN_EINVAL, "version 3");
    check_equal(hypercall_grant_table_op(99, &set, 1), -XEN_ENOSYS, "an unknown command");
}
