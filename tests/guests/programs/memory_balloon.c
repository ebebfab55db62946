/* Ballooning: decrease_reservation, populate_physmap, increase_reservation. */
#include "guest.h"

#define EXTENTS 4

static long reservation_op(unsigned command, xen_pfn_t *extents, unsigned long count, unsigned order, domid_t domain)
{
    struct xen_memory_reservation argument = {.nr_extents = count, .extent_order = order, .domid = domain};

    set_xen_guest_handle(argument.extent_start, extents);
    return hypercall_memory_op(command, &argument);
}

static long current_pages(void)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return hypercall_memory_op(XENMEM_current_reservation, &self);
}

PROGRAM(memory_balloon)
{
    void *pages[EXTENTS];
    xen_pfn_t extents[EXTENTS], pfns[EXTENTS], mfns[EXTENTS], junk[2] = {0xffffffffff, 0};
    unsigned long *p2m = (unsigned long *)start_info->mfn_list, not_zero = 0, own = 0;
    long before = current_pages();

    for (int i = 0; i < EXTENTS; i++) {
        pages[i] = page_alloc();
        memset(pages[i], 0x5a, PAGE_SIZE);
        mfns[i] = extents[i] = virt_to_mfn(pages[i]);
        pfns[i] = mfn_to_pfn(mfns[i]);
        map_frame(pages[i], 0, 0);
    }
    check_equal(reservation_op(XENMEM_decrease_reservation, extents, EXTENTS, 0, DOMID_SELF), EXTENTS, "decrease_reservation frees four");
    check_equal(current_pages(), before - EXTENTS, "current_reservation follows");
    check(map_frame(pages[0], mfns[0], PTE_DATA) < 0, "a freed frame can't be mapped");
    check_equal(reservation_op(XENMEM_decrease_reservation, extents, 1, 0, DOMID_SELF), 0, "a frame can't be freed twice");
    check_equal(reservation_op(XENMEM_decrease_reservation, junk, 1, 0, DOMID_SELF), 0, "nor one that does not exist");

    for (int i = 0; i < EXTENTS; i++)
        extents[i] = pfns[i];
    check_equal(reservation_op(XENMEM_populate_physmap, extents, EXTENTS, 0, DOMID_SELF), EXTENTS, "populate_physmap gives four");
    check_equal(current_pages(), before, "current_reservation follows");
    for (int i = 0; i < EXTENTS; i++) {
        check(mfn_to_pfn(extents[i]) == pfns[i], "M2P of new frame %d", i);
        p2m[pfns[i]] = extents[i];
        check(map_frame(pages[i], extents[i], PTE_DATA) == 0, "map new frame %d", i);
        for (unsigned word = 0; word < 512; word++)
            not_zero += ((u64 *)pages[i])[word] != 0;
    }
    check_equal(not_zero, 0, "new frames hold zeros");

    map_frame(pages[0], 0, 0);
    extents[0] = p2m[pfns[0]];
    check_equal(reservation_op(XENMEM_decrease_reservation, extents, 1, 0, DOMID_SELF), 1, "free one");
    check_equal(reservation_op(XENMEM_increase_reservation, extents, 1, 0, DOMID_SELF), 1, "increase_reservation gives one");
    for (unsigned long pfn = 0; pfn < start_info->nr_pages; pfn++)
        own += p2m[pfn] == extents[0] && pfn != pfns[0];
    check_equal(own, 0, "a frame that was not ours");
    check_equal(map_frame(pages[0], extents[0], PTE_DATA), 0, "it can be mapped");
    check_equal(current_pages(), before, "the reservation is complete");

    struct xen_memory_domain self = {.domid = DOMID_SELF};
    long maximum = hypercall_memory_op(XENMEM_maximum_reservation, &self), given = 0;

    while (given < 5000) {
        extents[0] = 0;
        if (reservation_op(XENMEM_increase_reservation, extents, 1, 0, DOMID_SELF) != 1)
            break;
        given++;
    }
    check_equal(given, maximum - before, "increase_reservation stops at maximum_reservation");
    extents[0] = 0;
    check_equal(reservation_op(XENMEM_increase_reservation, extents, 1, 30, DOMID_SELF), 0, "an extent of order 30");
    check_equal(reservation_op(XENMEM_increase_reservation, extents, 1, 0, 0), -XEN_EPERM, "in domain 0");
    check_equal(reservation_op(XENMEM_increase_reservation, extents, 1, 0, 0x7000), 0, "in no domain: nothing done");
}
