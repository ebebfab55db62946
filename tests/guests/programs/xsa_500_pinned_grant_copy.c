/* XSA-500: a copy by a grant that was in use already had its permission checked on one page and was done on another: the entry had been
 * rewritten meanwhile. What is in use is the frame of the first use, or the copy is refused; a page table is never written. */
#include "guest.h"
#include "grant.h"

#define REFERENCE 20

static u8 window[PAGE_SIZE] page_aligned;
static u8 *first, *source;

static int copy_in(bool readable)
{
    struct gnttab_copy copy = {.source = {.u.gmfn = virt_to_mfn(source), .domid = DOMID_SELF},
                               .dest = {.u.ref = REFERENCE, .domid = own_domid()},
                               .len = 64,
                               .flags = GNTCOPY_dest_gref};
    long result;

    if (readable) {
        copy.source.u.ref = REFERENCE;
        copy.source.domid = own_domid();
        copy.dest.u.gmfn = virt_to_mfn(source);
        copy.dest.domid = DOMID_SELF;
        copy.flags = GNTCOPY_source_gref;
    }
    result = hypercall_grant_table_op(GNTTABOP_copy, &copy, 1);
    return result ? (int)result : copy.status;
}

/* The entry names `victim` while the grant of `first` is mapped. */
static void rewrite(unsigned long victim, const volatile u8 *seen, const char *what)
{
    grant_handle_t handle;
    u8 before = seen ? seen[0] : 0;
    int status;

    memset(first, 0x11, PAGE_SIZE);
    memset(source, 0x77, PAGE_SIZE);
    grant_give(REFERENCE, virt_to_mfn(first), GTF_permit_access);
    check_equal(grant_map(REFERENCE, (unsigned long)window, GNTMAP_host_map, &handle), 0, "map the grant");
    grant_table.v1[REFERENCE].frame = victim;
    barrier();
    status = copy_in(false);
    check(status || first[0] == 0x77, "XSA-500: %s: a copy into the grant is refused or reaches the page in use (%d)", what, status);
    if (seen)
        check_equal(seen[0], before, "XSA-500: and no other");
    memset(first, 0x11, PAGE_SIZE);
    status = copy_in(true);
    check(status || source[0] == 0x11, "XSA-500: %s: a copy from it is refused or of the page in use (%d)", what, status);
    check_equal(grant_unmap(handle, (unsigned long)window, 0), 0, "unmap");
    check_equal(grant_flags(REFERENCE), GTF_permit_access, "the grant is not in use any more");
}

PROGRAM(xsa_500_pinned_grant_copy)
{
    u8 *other = page_alloc();
    u64 *root = (u64 *)start_info->pt_base;

    first = page_alloc();
    source = page_alloc();
    grants_init();
    memset(other, 0x22, PAGE_SIZE);
    rewrite(virt_to_mfn(other), other, "another page");
    rewrite(virt_to_mfn(root), (u8 *)root, "the root page table");
    rewrite(0xffffff, NULL, "no frame");
    rewrite(0, NULL, "a frame of Xen's");
}
