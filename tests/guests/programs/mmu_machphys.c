/* MMU_MACHPHYS_UPDATE changes the M2P entry of the guest's own frames only. */
#include "guest.h"

PROGRAM(mmu_machphys)
{
    u8 *page = page_alloc();
    unsigned long mfn = virt_to_mfn(page), pfn = mfn_to_pfn(mfn);
    struct mmu_update update = {.ptr = ((u64)mfn << 12) | MMU_MACHPHYS_UPDATE, .val = 0x12345};
    unsigned long foreign;

    check_equal(pfn, ((unsigned long)page - VIRT_BASE) >> 12, "M2P of a page");
    check_equal(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF), 0, "MMU_MACHPHYS_UPDATE");
    check_equal(*(volatile unsigned long *)&machine_to_phys_mapping[mfn], 0x12345, "M2P follows");
    update.val = pfn;
    check_equal(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF), 0, "and back");
    check_equal(*(volatile unsigned long *)&machine_to_phys_mapping[mfn], pfn, "M2P follows");
    update.ptr = 0x000ffffffffff000UL | MMU_MACHPHYS_UPDATE;
    check_equal(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF), -XEN_EINVAL, "a frame that does not exist");
    for (foreign = 0; foreign < 64; foreign++) { /* frames of Xen or nobody lie low */
        bool own = false;

        for (unsigned long i = 0; i < start_info->nr_pages && !own; i++)
            own = pfn_to_mfn(i) == foreign;
        if (!own)
            break;
    }
    update.ptr = ((u64)foreign << 12) | MMU_MACHPHYS_UPDATE;
    check_equal(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF), -XEN_EINVAL, "a frame of somebody else");
}
