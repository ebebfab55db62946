/* XSA-32: several hypercalls did not check frame numbers. XSA-248: a frame that Xen uses itself could be had through some paths.
 * Every frame of the machine, and numbers beyond, by every hypercall that takes one: only the domain's own are accepted. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

static bool own(unsigned long mfn)
{
    unsigned long pfn = machine_to_phys_mapping[mfn];

    return (pfn < start_info->nr_pages && pfn_to_mfn(pfn) == mfn) || mfn == start_info->shared_info >> 12;
}

PROGRAM(xsa_032_frames_that_do_not_exist)
{
    static const unsigned long beyond[] = {1UL << 20, 1UL << 28, (1UL << 40) - 1, 1UL << 40, (1UL << 52) - 1, 1UL << 52, 1UL << 63, ~0UL};
    static const unsigned commands[] = {MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE, MMUEXT_NEW_BASEPTR,
                                        MMUEXT_NEW_USER_BASEPTR, MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE, MMUEXT_MARK_SUPER};
    long frames = hypercall_memory_op(XENMEM_maximum_ram_page, NULL) + 1;
    unsigned mapped = 0, pinned = 0, written = 0;
    u64 *page = page_alloc();

    for (size_t i = 0; i < ARRAY_SIZE(beyond); i++) {
        struct mmu_update update = {.ptr = beyond[i] << 12 | MMU_MACHPHYS_UPDATE, .val = 1};
        struct vcpu_register_vcpu_info info = {.mfn = beyond[i]};
        xen_pfn_t gdt[1] = {beyond[i]};

        for (size_t j = 0; j < ARRAY_SIZE(commands); j++)
            check(mmuext(commands[j], beyond[i], virt_to_mfn(page)) < 0, "XSA-32: mmuext_op %u of 0x%lx", commands[j], beyond[i]);
        check(mmuext(MMUEXT_COPY_PAGE, virt_to_mfn(page), beyond[i]) < 0, "XSA-32: copy from 0x%lx", beyond[i]);
        if (beyond[i] << 12 >> 12 == beyond[i] && beyond[i] >> 40 == 0)
            check(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF) < 0, "XSA-32: machphys_update of 0x%lx", beyond[i]);
        check(hypercall_set_gdt(gdt, 1) < 0, "XSA-32: set_gdt with 0x%lx", beyond[i]);
        check(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &info) < 0, "XSA-32: vcpu_info in 0x%lx", beyond[i]);
        check(hypercall_update_descriptor(beyond[i] << 12, DESCRIPTOR_DATA32) < 0 || beyond[i] << 12 >> 12 != beyond[i],
              "XSA-32: update_descriptor in 0x%lx", beyond[i]);
    }
    for (long mfn = 0; mfn < frames; mfn++) {
        struct mmu_update write = {.ptr = mfn << 12 | MMU_NORMAL_PT_UPDATE, .val = 0};

        if (own(mfn))
            continue;
        if (mfn % 16 == 0 && mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0) == 0)
            pinned++;
        if (map_frame(window, mfn, PTE_READ_ONLY) == 0)
            mapped++;
        else if (mfn % 16 == 1 && hypercall_mmu_update(&write, 1, NULL, DOMID_SELF) == 0)
            written++;
    }
    /* Its own grant table is Xen's heap: shared with the domain, so it may be mapped, and written as any page of its own. */
    check(mapped <= 64, "XSA-248: %u of %ld foreign frames can be mapped (the grant table's)", mapped, frames);
    check_equal(pinned, 0, "XSA-248: pinned");
    check_equal(written, 0, "XSA-248: written");
}
