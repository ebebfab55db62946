/* @modes 64 pae 32
 * GNTTABOP_map_grant_ref of an HVM guest: a grant becomes memory at a guest physical address, and nothing but an unmap takes it away. */
#include "grant.h"

PROGRAM(grant_map)
{
    static u8 hole_page[PAGE_SIZE] page_aligned;
    volatile u32 *page = page_alloc(), *window = (volatile u32 *)FREE_HOLE;
    grant_handle_t handle, other, third;
    struct gnttab_unmap_and_replace replace = {0};
    struct gnttab_transfer transfer = {0};
    struct xen_add_to_physmap_batch batch = {.domid = DOMID_SELF, .space = XENMAPSPACE_gmfn_foreign, .size = 1};
    xen_ulong_t index = 1;
    xen_pfn_t gfn = FREE_HOLE >> 12;
    int error = 0;

    grants_init();
    grant_give(8, gfn_of(page), GTF_permit_access);
    grant_give(9, gfn_of(page), GTF_permit_access | GTF_readonly);
    page[0] = 1234;
    check_equal(grant_map(8, FREE_HOLE, GNTMAP_host_map, &handle), GNTST_okay, "map a grant in a hole");
    check_equal(window[0], 1234, "it is the page");
    window[1] = 77;
    check_equal(page[1], 77, "a write through it");
    check_equal(grant_table[8].flags & (GTF_reading | GTF_writing), GTF_reading | GTF_writing, "the grant is in use");
    check_equal(grant_map(9, FREE_HOLE + PAGE_SIZE, GNTMAP_host_map, &other), GNTST_general_error, "a read-only grant for writing");
    check_equal(grant_map(9, FREE_HOLE + PAGE_SIZE, GNTMAP_host_map | GNTMAP_readonly, &other), GNTST_okay, "and for reading");
    check_equal(window[1024], 1234, "it reads as the page");
    window[1024] = 5;
    check_equal(page[0], 1234, "a write to it is dropped");
    asm volatile("orl $8, %0" : "+m"(window[1025]));
    check_equal(page[1], 77, "so is one that reads first");
    check_equal(grant_map(8, FREE_HOLE, GNTMAP_device_map | GNTMAP_host_map, &third), GNTST_general_error, "devices: there are none");
    check_equal(grant_map(8, FREE_HOLE, GNTMAP_contains_pte | GNTMAP_host_map, &third), GNTST_general_error, "an entry of a page table");
    check_equal(grant_map(8, FREE_HOLE, GNTMAP_application_map | GNTMAP_host_map, &third), GNTST_general_error, "for applications");
    check_equal(grant_map(8, FREE_HOLE, GNTMAP_readonly, &third), GNTST_bad_gntref, "neither for devices nor for the host");
    check_equal(grant_map(500, FREE_HOLE + 2 * PAGE_SIZE, GNTMAP_host_map, &third), GNTST_general_error, "a grant that was not given");
    check_equal(physmap_remove(gfn), -XEN_ENOENT, "a grant is not removed");
    check_equal(physmap_decrease(gfn), 0, "nor given back");
    check_equal(physmap_populate(gfn), 0, "nor replaced by new memory");
    check_equal(physmap_add(XENMAPSPACE_shared_info, 0, gfn), -XEN_ENXIO, "nor by shared_info");
    check_equal(physmap_add(XENMAPSPACE_gmfn, gfn, gfn + 8), -XEN_EINVAL, "nor moved");
    check_equal(window[0], 1234, "it is still there");
    grant_give(10, gfn, GTF_permit_access);
    check(grant_map(10, FREE_HOLE + 2 * PAGE_SIZE, GNTMAP_host_map, &third) != GNTST_okay, "nor granted further");
    check_equal(grant_unmap(handle, FREE_HOLE + PAGE_SIZE), GNTST_general_error, "unmapped at another address");
    check_equal(grant_unmap(handle, FREE_HOLE + 9 * PAGE_SIZE), GNTST_general_error, "unmapped where nothing is");
    replace.host_addr = FREE_HOLE;
    replace.new_addr = FREE_HOLE + 9 * PAGE_SIZE;
    replace.handle = handle;
    check_equal(HYPERCALL(grant_table_op, GNTTABOP_unmap_and_replace, &replace, 1), 0, "unmap_and_replace");
    check_equal(replace.status, GNTST_general_error, "there is nothing to replace it by");
    check_equal(grant_unmap(handle, FREE_HOLE), GNTST_okay, "unmap it");
    check_equal(window[0], 0xffffffff, "there is a hole again");
    check_equal(grant_unmap(handle, FREE_HOLE), GNTST_bad_handle, "its handle is gone");
    replace.host_addr = FREE_HOLE + PAGE_SIZE;
    replace.new_addr = 0;
    replace.handle = other;
    HYPERCALL(grant_table_op, GNTTABOP_unmap_and_replace, &replace, 1);
    check_equal(replace.status, GNTST_okay, "unmap_and_replace by nothing");
    check_equal(window[1024], 0xffffffff, "there is a hole again");
    check_equal(grant_table[8].flags, GTF_permit_access, "the grant is not in use any more");

    check_equal(grant_map(8, (unsigned long)hole_page, GNTMAP_host_map, &handle), GNTST_okay, "map it over RAM");
    check_equal(*(volatile u32 *)hole_page, 1234, "the grant is seen");
    check_equal(grant_unmap(handle, (unsigned long)hole_page), GNTST_okay, "unmap it");
    check_equal(*(volatile u32 *)hole_page, 0xffffffff, "the RAM does not come back");
    check_equal(physmap_populate(gfn_of(hole_page)), 1, "there is room for new");
    check_equal(page[0], 1234, "the page is where it was");

    transfer.mfn = gfn_of(page);
    transfer.domid = own_domid;
    HYPERCALL(grant_table_op, GNTTABOP_transfer, &transfer, 1);
    check_equal(transfer.status, GNTST_general_error, "a page can't be transferred");
    transfer.mfn = FREE_HOLE >> 12;
    HYPERCALL(grant_table_op, GNTTABOP_transfer, &transfer, 1);
    check_equal(transfer.status, GNTST_bad_page, "a hole can't, either");

    check_equal(physmap_add(XENMAPSPACE_gmfn_foreign, 1, gfn), -XEN_ENOSYS, "foreign frames: by the batch alone");
    check_equal(physmap_add(XENMAPSPACE_dev_mmio, 1, gfn), -XEN_EACCES, "memory of devices");
    check_equal(physmap_add(99, 1, gfn), -XEN_EINVAL, "a space that there is not");
    check_equal(physmap_add(XENMAPSPACE_grant_table, 0x10000, gfn), -XEN_EINVAL, "a frame beyond the grant table's limit");
    set_xen_guest_handle(batch.idxs, &index);
    set_xen_guest_handle(batch.gpfns, &gfn);
    set_xen_guest_handle(batch.errs, &error);
    batch.u.foreign_domid = 0;
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), 0, "a batch of foreign frames");
    check_equal(error, -XEN_EPERM, "is for the hardware domain: each is refused");
    batch.space = XENMAPSPACE_gmfn_range;
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), -XEN_EOPNOTSUPP, "a batch of ranges");
    batch.space = XENMAPSPACE_dev_mmio;
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), -XEN_EACCES, "a batch of devices' memory");
}
