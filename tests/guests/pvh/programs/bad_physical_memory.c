/* @modes 64
 * Operations on the physical memory that can't be: no memory left, GFNs beyond all addresses, lists and ranges beyond all bounds. */
#include "guest.h"

static struct xen_add_to_physmap_batch batch_of(unsigned space, unsigned size, xen_ulong_t *indices, xen_pfn_t *gfns, int *errors)
{
    struct xen_add_to_physmap_batch batch = {.domid = DOMID_SELF, .space = space, .size = size};

    set_xen_guest_handle(batch.idxs, indices);
    set_xen_guest_handle(batch.gpfns, gfns);
    set_xen_guest_handle(batch.errs, errors);
    return batch;
}

PROGRAM(bad_physical_memory)
{
    static const unsigned long beyond[] = {1UL << 24, 1UL << 36, 1UL << 40, 1UL << 52, ~0UL, ~0UL >> 12};
    struct xen_add_to_physmap range = {.domid = DOMID_SELF, .space = XENMAPSPACE_gmfn_range, .size = 0xffff};
    struct xen_add_to_physmap_batch batch;
    xen_ulong_t indices[3] = {gfn_of(program), ~0UL, 5};
    xen_pfn_t gfns[3] = {~0UL, 0xc0200, 1UL << 30};
    int errors[3] = {1, 1, 1};
    struct { domid_t domid; } self = {DOMID_SELF};
    unsigned long gfn = FREE_HOLE >> 12, populated = 0;
    long before, frames;

    for (unsigned i = 0; i < ARRAY_SIZE(beyond); i++) {
        check_equal(physmap_populate(beyond[i]), 0, "populate beyond all addresses");
        check_equal(physmap_add(XENMAPSPACE_gmfn, gfn_of(program), beyond[i]), -XEN_EINVAL, "move a page there");
        check_equal(physmap_add(XENMAPSPACE_gmfn, beyond[i], gfn), -XEN_EINVAL, "move one from there");
        check_equal(physmap_add(XENMAPSPACE_shared_info, beyond[i], gfn), -XEN_EINVAL, "another shared_info");
        check_equal(physmap_add(XENMAPSPACE_grant_table, beyond[i], gfn), -XEN_EINVAL, "a frame of the grant table");
        check_equal(physmap_remove(beyond[i]), -XEN_ENOENT, "remove one there");
        check_equal(physmap_decrease(beyond[i]), 0, "give one back from there");
    }
    range.idx = ~0UL - 5;
    range.gpfn = gfn;
    check(HYPERCALL(memory_op, XENMEM_add_to_physmap, &range) < 0, "a range around the end of all numbers");
    range.idx = 0xd0000;
    check(HYPERCALL(memory_op, XENMEM_add_to_physmap, &range) < 0, "a range of holes");
    batch = batch_of(XENMAPSPACE_gmfn, 3, indices, gfns, errors);
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), 0, "a batch of which nothing can be done");
    check(errors[0] < 0 && errors[1] < 0 && errors[2] < 0, "each has its error: %d %d %d", errors[0], errors[1], errors[2]);
    batch = batch_of(XENMAPSPACE_gmfn, 0xffff, (void *)0x7ffffffff000UL, gfns, errors);
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), -XEN_EFAULT, "a batch at an address that is not mapped");
    batch = batch_of(XENMAPSPACE_gmfn, 0, NULL, NULL, NULL);
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), 0, "an empty batch");

    for (frames = 0; frames < 10000 && physmap_add(XENMAPSPACE_grant_table, frames, gfn + frames) == 0; frames++)
        ;
    check(frames >= 4 && frames < 10000, "all %ld frames of the grant table are placed", frames);
    check_equal(physmap_add(XENMAPSPACE_grant_table, frames, gfn + frames), -XEN_EINVAL, "there are no more");
    for (long i = 0; i < frames; i++)
        check_equal(physmap_remove(gfn + i), 0, "each can be removed again");

    before = HYPERCALL(memory_op, XENMEM_current_reservation, &self);
    while (populated < 5000 && physmap_populate(gfn + populated) == 1)
        populated++;
    check(populated < 5000, "after %lu pages there is no memory left", populated);
    check_equal(HYPERCALL(memory_op, XENMEM_current_reservation, &self), before + populated, "the reservation counts them");
    check_equal(HYPERCALL(memory_op, XENMEM_maximum_reservation, &self), before + populated, "it is full");
    while (populated)
        physmap_decrease(gfn + --populated);
    check_equal(HYPERCALL(memory_op, XENMEM_current_reservation, &self), before, "all are given back");
}
