/* @bench
 * Grants of a domain to itself: a page copied, a page mapped and unmapped, each as a call of its own; and copies 32 to a call. */
#include "guest.h"

#include "bench.h"
#include "grant.h"

#define BATCH 32

static u8 source[PAGE_SIZE] page_aligned, target[PAGE_SIZE] page_aligned, window[PAGE_SIZE] page_aligned;

static domid_t self;

static struct gnttab_copy page_copy(void)
{
    struct gnttab_copy op = {.len = PAGE_SIZE, .flags = GNTCOPY_source_gref};

    op.source.u.ref = 8;
    op.source.domid = self;
    op.dest.u.gmfn = virt_to_mfn(target);
    op.dest.domid = DOMID_SELF;
    return op;
}

static void map_and_unmap(void)
{
    struct gnttab_map_grant_ref map = {.host_addr = (unsigned long)window, .flags = GNTMAP_host_map, .ref = 8, .dom = self};
    struct gnttab_unmap_grant_ref unmap = {.host_addr = (unsigned long)window};

    check_equal(hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1) | map.status, 0, "map");
    unmap.handle = map.handle;
    check_equal(hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1) | unmap.status, 0, "unmap");
}

PROGRAM(grants)
{
    struct gnttab_copy copies[BATCH];

    self = own_domid();
    grants_init();
    grant_give(8, virt_to_mfn(source), GTF_permit_access);
    for (unsigned i = 0; i < BATCH; i++)
        copies[i] = page_copy();
    memset(source, 0x5a, PAGE_SIZE);
    BENCH("grant_copy_page", 500, check_equal(hypercall_grant_table_op(GNTTABOP_copy, copies, 1), 0, "copy"));
    BENCH_UNITS("grant_copy_page_of_32", 50, BATCH, check_equal(hypercall_grant_table_op(GNTTABOP_copy, copies, BATCH), 0, "copies"));
    check(!memcmp(source, target, PAGE_SIZE) && !copies[0].status && !copies[BATCH - 1].status, "the page was copied");
    BENCH("grant_map_unmap", 500, map_and_unmap());
}
