/* @vcpus 2
 * XSA-501: set_version raced with operations that look at the table twice: references that version 2 does not have, status words that went. XSA-517:
 * so did two changes in a row. vCPU 1 changes the version without end, while vCPU 0 maps, copies, transfers and asks for status frames. */
#include "guest.h"
#include "grant.h"

#define FIRST 30
#define BEYOND 300 /* one of version 1's references only, in a table of one page */

static u8 window[PAGE_SIZE] page_aligned;
static volatile u64 stop, changes;
static u64 done_well, rounds;
static u8 *from, *to;
static domid_t self;

static void change(void)
{
    for (unsigned version = 1; !stop; version ^= 3) {
        changes += grant_set_version(version) == 0;
        if (!(changes & 63))
            hypercall_sched_op(SCHEDOP_yield, NULL);
    }
}

static void one_round(grant_ref_t reference)
{
    struct gnttab_copy copy = {.source = {.u.ref = reference, .domid = self},
                               .dest = {.u.gmfn = virt_to_mfn(to), .domid = DOMID_SELF},
                               .len = 16,
                               .flags = GNTCOPY_source_gref};
    struct gnttab_transfer transfer = {.mfn = 0xffffff, .domid = self, .ref = reference};
    uint64_t frames[1];
    struct gnttab_get_status_frames status = {.nr_frames = 1, .dom = DOMID_SELF};
    grant_handle_t handle;

    set_xen_guest_handle(status.frame_list, frames);
    if (grant_map(reference, (unsigned long)window, GNTMAP_host_map | GNTMAP_readonly, &handle) == 0) {
        done_well++;
        grant_unmap(handle, (unsigned long)window, 0);
    }
    hypercall_grant_table_op(GNTTABOP_copy, &copy, 1);
    hypercall_grant_table_op(GNTTABOP_transfer, &transfer, 1);
    hypercall_grant_table_op(GNTTABOP_get_status_frames, &status, 1);
    rounds++;
}

static void act(unsigned vcpu)
{
    if (vcpu) {
        change();
        return;
    }
    for (u64 deadline = clock_now() + 3 * SECONDS; rounds < smp_scaled(1500) && (rounds < 100 || clock_now() < deadline);) {
        one_round(FIRST + rounds % 4);
        one_round(BEYOND + rounds % 4);
    }
    stop = 1;
}

PROGRAM(xsa_501_grant_version_races)
{
    grant_handle_t handle;

    from = page_alloc();
    to = page_alloc();
    grants_init();
    self = own_domid();
    for (unsigned i = 0; i < 4; i++) {
        grant_give(FIRST + i, virt_to_mfn(from), GTF_permit_access);
        grant_give(BEYOND + i, virt_to_mfn(from), GTF_permit_access);
    }
    check(smp_run(2, act, 60), "both vCPUs have finished");
    check(changes > 10, "XSA-517: %lu changes of the version in %lu rounds", changes, rounds);
    check_equal(grant_set_version(1), 0, "XSA-501: nothing stays in use: version 1");
    memset(&grant_table, 0, PAGE_SIZE);
    grant_give(FIRST, virt_to_mfn(from), GTF_permit_access);
    *from = 0x5a;
    check_equal(grant_map(FIRST, (unsigned long)window, GNTMAP_host_map, &handle), 0, "a grant works");
    check_equal(*(volatile u8 *)window, 0x5a, "as before");
    check_equal(grant_unmap(handle, (unsigned long)window, 0), 0, "and goes");
    map_page(from, from, PTE_READ_ONLY);
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(from), 0), 0, "XSA-501: no writable reference is left on the page");
    memset(to, 0, PAGE_SIZE);
    map_page(to, to, PTE_READ_ONLY);
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(to), 0), 0, "XSA-501: nor on the other");
}
