/* @modes 64 pae 32
 * The guest's physical memory: what has no memory reads as ones and drops writes; populate, decrease, add_to_physmap and remove. */
#include "guest.h"

static volatile u32 *const hole = (volatile u32 *)FREE_HOLE;

PROGRAM(physical_holes)
{
    volatile u32 *page = page_alloc();
    unsigned long owned, gfn = FREE_HOLE >> 12;
    struct xen_memory_domain { domid_t domid; } self = {DOMID_SELF};

    check_equal(*hole, 0xffffffff, "a hole reads as ones");
    *hole = 0x1234;
    check_equal(*hole, 0xffffffff, "a write to it is dropped");
    check_equal(*(volatile u8 *)hole, 0xff, "an octet of it");
    check_equal(*(volatile u16 *)hole, 0xffff, "a word of it");
    owned = HYPERCALL(memory_op, XENMEM_current_reservation, &self);
    check_equal(physmap_populate(gfn), 1, "populate it");
    check_equal(HYPERCALL(memory_op, XENMEM_current_reservation, &self), owned + 1, "one page more in the reservation");
    check_equal(*hole, 0, "it is zero");
    *hole = 0x1234;
    check_equal(*hole, 0x1234, "and is memory");
    check_equal(physmap_populate(gfn), 0, "there is memory already");
    check_equal(physmap_add(XENMAPSPACE_gmfn, gfn, gfn + 1), 0, "move it");
    check_equal(hole[1024], 0x1234, "it is at the new place");
    check_equal(*hole, 0xffffffff, "it is not at the old place");
    check_equal(physmap_remove(gfn + 1), 0, "remove it");
    check_equal(hole[1024], 0xffffffff, "it is gone");
    check_equal(physmap_remove(gfn + 1), -XEN_ENOENT, "there is nothing to remove");
    page[0] = 77;
    check_equal(physmap_decrease(gfn_of(page)), 1, "give a page back");
    check_equal(page[0], 0xffffffff, "it is a hole");
    check_equal(physmap_decrease(gfn_of(page)), 0, "it can't be given back twice");
    check_equal(physmap_populate(gfn_of(page)), 1, "a new one");
    check_equal(page[0], 0, "which is zero");
    check_equal(HYPERCALL(memory_op, XENMEM_maximum_gpfn, &self), 0xfefff, "the last page: that of the console");
}
