/* XSA-50: an unchecked error path of GNTTABOP_copy released what it did not hold. XSA-318: its continuation lost operations. XSA-380: long lists
 * looped without preemption. */
#include "guest.h"
#include "grant.h"

#define COUNT 1500

static struct gnttab_copy copies[COUNT];

static int copy(struct gnttab_copy *argument)
{
    long result = hypercall_grant_table_op(GNTTABOP_copy, argument, 1);

    return result ? (int)result : argument->status;
}

PROGRAM(xsa_050_grant_copy)
{
    u8 *from = page_alloc(), *to = page_alloc(), *other = page_alloc();
    u64 *table = table_alloc();
    domid_t self = own_domid();
    unsigned wrong = 0;
    const struct gnttab_copy good = {.source = {.u.ref = 10, .domid = self}, .dest = {.u.ref = 11, .domid = self}, .len = 64,
                                     .flags = GNTCOPY_source_gref | GNTCOPY_dest_gref};
    struct gnttab_copy bad;

    grants_init();
    grant_give(10, virt_to_mfn(from), GTF_permit_access | GTF_readonly);
    grant_give(11, virt_to_mfn(to), GTF_permit_access);
    grant_give(12, virt_to_mfn(table), GTF_permit_access);
    grant_give(13, 0xffffff, GTF_permit_access);
    mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0);
    memset(from, 0x42, PAGE_SIZE);
    static const struct {
        u32 source, dest;
        u16 source_offset, dest_offset, length;
    } cases[] = {{10, 10, 0, 0, 64},   {11, 10, 0, 0, 64},    {10, 600, 0, 0, 64},    {600, 11, 0, 0, 64},    {~0U, 11, 0, 0, 64},
                 {10, ~0U, 0, 0, 64},  {10, 12, 0, 0, 64},    {10, 13, 0, 0, 64},     {13, 11, 0, 0, 64},     {14, 11, 0, 0, 64},
                 {10, 14, 0, 0, 64},   {10, 11, 4090, 0, 64}, {10, 11, 0, 4090, 64},  {10, 11, 0xffff, 0, 2}, {10, 11, 0, 0xffff, 2},
                 {10, 11, 1, 0, 4096}, {10, 11, 0, 0, 0xffff}};
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
            bad = good;
            bad.source.u.ref = cases[i].source;
            bad.dest.u.ref = cases[i].dest;
            bad.source.offset = cases[i].source_offset;
            bad.dest.offset = cases[i].dest_offset;
            bad.len = cases[i].length;
            if (copy(&bad) >= 0)
                check(false, "XSA-50: bad copy %u is accepted", (unsigned)i);
        }
    bad = good;
    bad.source.domid = 0;
    bad.flags = GNTCOPY_dest_gref;
    check(copy(&bad) < 0, "XSA-50: domain 0's frames by number");
    bad.flags = good.flags;
    check(copy(&bad) < 0, "XSA-50: a grant of domain 0's that there is not");
    bad.source.domid = 0x7000;
    check(copy(&bad) < 0, "XSA-50: a domain that does not exist");
    check_equal(to[0], 0, "nothing was copied");
    check_equal(grant_flags(10), GTF_permit_access | GTF_readonly, "XSA-50: no entry is left in use");
    check_equal(grant_flags(11), GTF_permit_access, "XSA-50: nor the other");
    check_equal(grant_set_version(1), 0, "nor does Xen think so");
    for (int i = 0; i < COUNT; i++) {
        copies[i] = good;
        copies[i].len = 1;
        copies[i].dest.offset = copies[i].source.offset = i;
        copies[i].status = 77;
        from[i] = i * 7;
    }
    check_equal(hypercall_grant_table_op(GNTTABOP_copy, copies, COUNT), 0, "XSA-318: a list of 1500");
    for (int i = 0; i < COUNT; i++)
        wrong += copies[i].status != GNTST_okay || to[i] != (u8)(i * 7);
    check_equal(wrong, 0, "XSA-318: each is done, each has its status");
    check(hypercall_grant_table_op(GNTTABOP_copy, copies, 0x80000000U) < 0, "XSA-380: 2^31 operations");
    map_page(other, other, 0);
    check_equal(hypercall_grant_table_op(GNTTABOP_copy, other, 10), -XEN_EFAULT, "XSA-318: a list that is not there");
    check_equal(to[COUNT], 0, "the rest of the page is as before");
}
