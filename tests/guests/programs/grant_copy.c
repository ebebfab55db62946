/* GNTTABOP_copy, version 2 with parts of pages, swap, transfer and the status frames, all within one domain. */
#include "guest.h"
#include "grant.h"

#define REF 20

static u8 *source, *dest;

static s64 copy(u16 offset, u16 length, u16 to)
{
    struct gnttab_copy op = {.len = length, .flags = GNTCOPY_source_gref};

    op.source.u.ref = REF;
    op.source.domid = own_domid();
    op.source.offset = offset;
    op.dest.u.gmfn = virt_to_mfn(dest);
    op.dest.domid = DOMID_SELF;
    op.dest.offset = to;
    check_equal(hypercall_grant_table_op(GNTTABOP_copy, &op, 1), 0, "copy");
    return op.status;
}

static void check_copy(void)
{
    grant_give(REF, virt_to_mfn(source), GTF_permit_access | GTF_readonly);
    check_equal(copy(10, 20, 4076), GNTST_okay, "to the end of the page");
    check_equal(memcmp(dest + 4076, source + 10, 20), 0, "the octets");
    check_equal(copy(10, 21, 4076), GNTST_bad_copy_arg, "over its end");
    check_equal(copy(4090, 7, 0), GNTST_bad_copy_arg, "from over the end");
    check_equal(copy(0, 0, 0), GNTST_okay, "nothing");
    check_equal(grant_flags(REF) & (GTF_reading | GTF_writing), 0, "not in use afterwards");
    grant_give(REF, 1UL << 31, GTF_permit_access);
    check_equal(copy(0, 1, 0), GNTST_bad_page, "no frame");
    grant_give(REF, 0, GTF_invalid);
    check_equal(copy(0, 1, 0), GNTST_general_error, "no grant");
}

static void check_swap(void)
{
    struct gnttab_swap_grant_ref op = {.ref_a = REF, .ref_b = REF + 1};

    grant_give(REF, 111, GTF_permit_access);
    grant_give(REF + 1, 222, GTF_permit_access | GTF_readonly);
    check_equal(hypercall_grant_table_op(GNTTABOP_swap_grant_ref, &op, 1), 0, "swap_grant_ref");
    check_equal((s64)op.status, GNTST_okay, "its status");
    check_equal(grant_table.v1[REF].frame, 222, "the other entry");
    check_equal(grant_flags(REF + 1), GTF_permit_access, "and the other's flags");
    grant_give(REF, 0, 0);
    grant_give(REF + 1, 0, 0);
}

static void check_transfer(void)
{
    u8 *page = page_alloc();
    unsigned long mfn = virt_to_mfn(page);
    struct gnttab_transfer op = {.mfn = mfn, .domid = own_domid(), .ref = REF};

    *page = 77;
    grant_give(REF, 0x4321, GTF_accept_transfer);
    check_equal(hypercall_grant_table_op(GNTTABOP_transfer, &op, 1), 0, "transfer of a mapped page");
    check_equal((s64)op.status, GNTST_bad_page, "its status");
    check_equal(hypercall_update_va_mapping((u64)page, 0, UVMF_INVLPG | UVMF_LOCAL), 0, "unmap it");
    check_equal(hypercall_grant_table_op(GNTTABOP_transfer, &op, 1), 0, "transfer to itself");
    check_equal((s64)op.status, GNTST_okay, "its status");
    check_equal(grant_flags(REF), GTF_accept_transfer | GTF_transfer_committed | GTF_transfer_completed, "completed");
    check_equal(grant_table.v1[REF].frame, mfn, "the frame that came");
    check_equal(mfn_to_pfn(mfn), 0x4321, "its M2P entry");
    check_equal(map_frame(page, mfn, PTE_DATA), 0, "map it");
    check_equal(*(volatile u8 *)page, 77, "with its content");
    grant_give(REF, 0, 0);
}

static void check_version_2(void)
{
    struct gnttab_get_status_frames status = {.dom = DOMID_SELF, .nr_frames = 1};
    u64 frame = 0;
    grant_handle_t handle;
    static u8 window[PAGE_SIZE] page_aligned;

    check_equal(grant_set_version(2), 0, "version 2");
    set_xen_guest_handle(status.frame_list, &frame);
    check_equal(hypercall_grant_table_op(GNTTABOP_get_status_frames, &status, 1), 0, "get_status_frames");
    check_equal((s64)status.status, GNTST_okay, "its status");
    check_equal(map_frame(grant_statuses, frame, PTE_DATA), 0, "map the status frame");
    check_equal(grant_table.v2[GNTTAB_RESERVED_CONSOLE].full_page.frame, start_info->console.domU.mfn, "the console's entry is kept");

    grant_table.v2[REF].sub_page.hdr.domid = own_domid();
    grant_table.v2[REF].sub_page.page_off = 100;
    grant_table.v2[REF].sub_page.length = 50;
    grant_table.v2[REF].sub_page.frame = virt_to_mfn(source);
    barrier();
    grant_table.v2[REF].sub_page.hdr.flags = GTF_permit_access | GTF_sub_page;
    check_equal(copy(100, 50, 0), GNTST_okay, "the part that is granted");
    check_equal(copy(99, 2, 0), GNTST_general_error, "more than is granted");
    check_equal(grant_map(REF, (u64)window, GNTMAP_host_map, &handle), GNTST_general_error, "map a part");
    grant_table.v2[REF].hdr.flags = GTF_permit_access;
    check_equal(grant_map(REF, (u64)window, GNTMAP_host_map, &handle), GNTST_okay, "map the page");
    check_equal(*(volatile grant_status_t *)&grant_statuses[REF], GTF_reading | GTF_writing, "in use, in the status frame");
    check_equal(grant_table.v2[REF].hdr.flags, GTF_permit_access, "and not in the entry");
    check_equal(grant_set_version(1), -XEN_EBUSY, "version 1 while it is in use");
    check_equal(grant_unmap(handle, (u64)window, 0), GNTST_okay, "unmap");
    check_equal(*(volatile grant_status_t *)&grant_statuses[REF], 0, "not in use");
    check_equal(grant_set_version(1), -XEN_EBUSY, "version 1 while the status frame is mapped");
    check_equal(hypercall_update_va_mapping((u64)grant_statuses, 0, UVMF_INVLPG | UVMF_LOCAL), 0, "unmap it");
    check_equal(grant_set_version(1), 0, "version 1");
    check_equal(grant_table.v1[GNTTAB_RESERVED_CONSOLE].frame, start_info->console.domU.mfn, "the console's entry is kept");
}

PROGRAM(grant_copy)
{
    grants_init();
    source = page_alloc();
    dest = page_alloc();
    for (unsigned i = 0; i < PAGE_SIZE; i++)
        source[i] = i * 7;
    check_copy();
    check_swap();
    check_transfer();
    check_version_2();
}
