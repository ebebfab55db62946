/* XSA-100, XSA-245: frames of the heap reached guests with their former contents. XSA-313: so did buffers shared with a guest.
 * Frames given back with a pattern come back, if at all, with zeros; and so does everything that is free. */
#include "guest.h"

#define COUNT 64

static long reservation_op(unsigned command, xen_pfn_t *extents)
{
    struct xen_memory_reservation argument = {.nr_extents = COUNT, .domid = DOMID_SELF};

    set_xen_guest_handle(argument.extent_start, extents);
    return hypercall_memory_op(command, &argument);
}

PROGRAM(xsa_100_scrubbed_frames)
{
    static xen_pfn_t extents[COUNT], pfns[COUNT];
    static void *pages[COUNT];
    unsigned dirty = 0;

    for (int i = 0; i < COUNT; i++) {
        pages[i] = page_alloc();
        pfns[i] = mfn_to_pfn(virt_to_mfn(pages[i]));
    }
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < COUNT; i++) {
            memset(pages[i], 0xa0 + round, PAGE_SIZE);
            extents[i] = virt_to_mfn(pages[i]);
            map_frame(pages[i], 0, 0);
        }
        check_equal(reservation_op(XENMEM_decrease_reservation, extents), COUNT, "give frames back");
        for (int i = 0; i < COUNT; i++)
            extents[i] = pfns[i];
        check_equal(reservation_op(XENMEM_populate_physmap, extents), COUNT, "XSA-245: get frames");
        for (int i = 0; i < COUNT; i++) {
            ((unsigned long *)start_info->mfn_list)[pfns[i]] = extents[i];
            map_frame(pages[i], extents[i], PTE_DATA);
            for (unsigned word = 0; word < 512; word++)
                dirty += ((u64 *)pages[i])[word] != 0;
        }
    }
    check_equal(dirty, 0, "XSA-100: new frames hold zeros");
}
