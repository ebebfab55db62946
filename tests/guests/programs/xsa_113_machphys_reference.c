/* XSA-113: an error path of MMU_MACHPHYS_UPDATE kept a reference, so that a frame was never freed. XSA-291: as did failed page-table updates.
 * XSA-207: memory of dead guests was not freed (the runner sees that all frames come back). */
#include "guest.h"

static long current_pages(void)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return hypercall_memory_op(XENMEM_current_reservation, &self);
}

PROGRAM(xsa_113_machphys_reference)
{
    u64 *page = page_alloc();
    xen_pfn_t extent[1] = {virt_to_mfn(page)};
    unsigned long mfn = extent[0], pfn = mfn_to_pfn(mfn);
    struct xen_memory_reservation reservation = {.nr_extents = 1, .domid = DOMID_SELF};
    struct mmu_update update = {.ptr = (u64)mfn << 12 | MMU_MACHPHYS_UPDATE, .val = pfn};
    long before = current_pages();

    for (int i = 0; i < 20; i++) {
        update.ptr = (u64)mfn << 12 | MMU_MACHPHYS_UPDATE;
        update.val = i & 1 ? ~0UL : pfn;
        check(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF) == 0 || i & 1, "XSA-113: update %d", i);
        update.ptr = (u64)mfn << 12 | 5;
        check(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF) < 0, "XSA-113: a bad command");
        update.ptr = ((u64)mfn << 12) + 4;
        check(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF) < 0, "XSA-291: a misaligned entry");
    }
    map_frame(page, 0, 0);
    set_xen_guest_handle(reservation.extent_start, extent);
    check_equal(hypercall_memory_op(XENMEM_decrease_reservation, &reservation), 1, "give the frame back");
    check_equal(current_pages(), before - 1, "XSA-113: it is freed");
    check(map_frame(page, mfn, PTE_DATA) < 0, "XSA-113: and not ours any more");
}
