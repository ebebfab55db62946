/* XSA-224: unmapping a grant's host or device part alone mishandled references. XSA-230: GTF_writing was cleared while writers were left.
 * XSA-234: an unmap that named another address kept the mapping. XSA-394: unmapping a grant could crash the host. */
#include "guest.h"
#include "grant.h"

static u8 windows[4][PAGE_SIZE] page_aligned;

PROGRAM(xsa_224_partial_unmaps)
{
    u8 *page = page_alloc(), *other = page_alloc();
    u64 bus = (u64)virt_to_mfn(page) << 12;
    unsigned long first = (unsigned long)windows[0], second = (unsigned long)windows[1], third = (unsigned long)windows[2];
    grant_handle_t handle, again, readonly;

    grants_init();
    map_page(page, page, PTE_READ_ONLY); /* from here on only grants hold it writable */
    grant_give(10, virt_to_mfn(page), GTF_permit_access);
    grant_give(11, virt_to_mfn(other), GTF_permit_access);
    check_equal(grant_map(10, first, GNTMAP_host_map | GNTMAP_device_map, &handle), GNTST_okay, "host and device");
    check(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0) < 0, "XSA-224: no page table meanwhile");
    check(grant_unmap(handle, 0, bus + PAGE_SIZE) < 0, "XSA-224: another bus address");
    check_equal(grant_unmap(handle, first, 0), GNTST_okay, "the host's part");
    check(TRAP_OF(MAY_FAULT("movb $1, (%0)")::"r"(first) : "memory").kind == VECTOR_PF, "is gone");
    check(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0) < 0, "XSA-224: the device's part still holds the page");
    check(grant_flags(10) & GTF_writing, "XSA-230: and the entry says so");
    grant_unmap(handle, first, 0);
    check(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0) < 0, "XSA-224: the host's part again changes nothing");
    check_equal(grant_unmap(handle, 0, bus), GNTST_okay, "the device's part");
    check(grant_unmap(handle, first, bus) < 0, "XSA-224: the handle is gone");
    check_equal(grant_flags(10), GTF_permit_access, "XSA-230: not in use");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0), 0, "XSA-224: now it may be a page table");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(page), 0), 0, "and not any more");

    check_equal(grant_map(10, first, GNTMAP_host_map, &handle), GNTST_okay, "a writer");
    check_equal(grant_map(10, second, GNTMAP_host_map, &again), GNTST_okay, "a second writer");
    check_equal(grant_map(10, third, GNTMAP_host_map | GNTMAP_readonly, &readonly), GNTST_okay, "a reader");
    check_equal(grant_unmap(handle, first, 0), GNTST_okay, "the first goes");
    check_equal(grant_flags(10), GTF_permit_access | GTF_reading | GTF_writing, "XSA-230: a writer is left");
    check_equal(grant_unmap(again, second, 0), GNTST_okay, "the second goes");
    check_equal(grant_flags(10), GTF_permit_access | GTF_reading, "XSA-230: a reader is left");
    check_equal(grant_unmap(readonly, third, 0), GNTST_okay, "the reader goes");
    check_equal(grant_flags(10), GTF_permit_access, "XSA-230: nobody");

    check_equal(grant_map(10, first, GNTMAP_host_map, &handle), GNTST_okay, "one mapping");
    check_equal(grant_map(11, second, GNTMAP_host_map, &again), GNTST_okay, "another page's");
    check(grant_unmap(handle, second, 0) < 0, "XSA-234: unmap at the other's address");
    check(grant_unmap(handle, third, 0) < 0, "XSA-234: unmap where nothing is");
    check(grant_unmap(handle, (unsigned long)page, 0) < 0, "XSA-234: unmap at an ordinary read-only mapping of the same frame");
    check(grant_unmap(handle, XEN_PRIVATE, 0) < 0, "XSA-234: unmap in Xen's memory");
    check(grant_unmap(handle, NON_CANONICAL, 0) < 0, "XSA-394: unmap at a non-canonical address");
    check_equal(grant_unmap(handle, 0, 0), GNTST_okay, "XSA-394: unmap of nothing");
    *(volatile u8 *)first = 0x10;
    check_equal(grant_unmap(handle, first, 0), GNTST_okay, "the real one");
    check_equal(grant_unmap(again, second, 0), GNTST_okay, "the other");
    /* An entry that was overwritten meanwhile: the handle stays, the references are right. */
    check_equal(grant_map(10, first, GNTMAP_host_map, &handle), GNTST_okay, "map it");
    check_equal(map_frame((void *)first, virt_to_mfn(other), PTE_DATA), 0, "XSA-234: overwrite the entry of a grant");
    grant_unmap(handle, first, 0);
    *(volatile u8 *)first = 0x20;
    check_equal(other[0], 0x20, "the new mapping is not harmed");
    check_equal(map_frame((void *)first, 0, 0), 0, "unmap it");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0), 0, "XSA-394: the granted page has no writable reference");
}
