/* XSA-226: transitive grants recursed and miscounted. XSA-411: their locks were taken in a bad order. Chains, loops, and copies by them. */
#include "guest.h"
#include "grant.h"

static int copy(domid_t self, grant_ref_t from, grant_ref_t to)
{
    struct gnttab_copy argument = {.source = {.u.ref = from, .domid = self}, .dest = {.u.ref = to, .domid = self}, .len = 16,
                                   .flags = GNTCOPY_source_gref | GNTCOPY_dest_gref};
    long result = hypercall_grant_table_op(GNTTABOP_copy, &argument, 1);

    return result ? (int)result : argument.status;
}

PROGRAM(xsa_226_transitive_grants)
{
    static u8 window[PAGE_SIZE] page_aligned;
    u64 *from = page_alloc(), *to = page_alloc();
    grant_handle_t handle;
    domid_t self = own_domid();

    grants_init();
    if (grant_set_version(2)) {
        print("no version 2 grants\n");
        return;
    }
    grant_table.v2[10].full_page = (typeof(grant_table.v2[0].full_page)){.hdr = {.flags = GTF_permit_access, .domid = self}, .frame = virt_to_mfn(to)};
    grant_table.v2[11].full_page = (typeof(grant_table.v2[0].full_page)){.hdr = {.flags = GTF_permit_access, .domid = self}, .frame = virt_to_mfn(from)};
    for (int i = 20; i < 40; i++)
        grant_table.v2[i].transitive = (typeof(grant_table.v2[0].transitive)){
            .hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = self, .gref = i == 20 ? 11 : i - 1};
    grant_table.v2[50].transitive = (typeof(grant_table.v2[0].transitive)){.hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = self, .gref = 50};
    grant_table.v2[51].transitive = (typeof(grant_table.v2[0].transitive)){.hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = self, .gref = 52};
    grant_table.v2[52].transitive = (typeof(grant_table.v2[0].transitive)){.hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = self, .gref = 51};
    grant_table.v2[53].transitive = (typeof(grant_table.v2[0].transitive)){.hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = 0, .gref = 0};
    grant_table.v2[54].transitive = (typeof(grant_table.v2[0].transitive)){.hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = self, .gref = ~0U};
    grant_table.v2[55].transitive = (typeof(grant_table.v2[0].transitive)){.hdr = {.flags = GTF_transitive, .domid = self}, .trans_domid = 0x7000, .gref = 1};
    *from = 0x4242;
    for (int round = 0; round < 20; round++) {
        int status = copy(self, 20, 10);

        check(status <= 0, "XSA-411: a grant through one other: %d", status);
        for (int i = 21; i < 40; i++)
            if (copy(self, i, 10) >= 0)
                check(false, "XSA-226: a chain of %d transitive grants", i - 19);
        for (int i = 50; i < 56; i++)
            if (copy(self, i, 10) >= 0 || copy(self, 10, i) >= 0)
                check(false, "XSA-226: transitive grant %d", i);
        if (grant_map(20, (unsigned long)window, GNTMAP_host_map, &handle) >= 0)
            check(false, "XSA-226: a transitive grant was mapped");
    }
    check_equal(grant_set_version(1), 0, "XSA-226: no entry is left in use");
}
