/* XSA-14: XENMEM_populate_physmap with the populate-on-demand flag from a PV guest hit a BUG. XSA-31: extent orders were not checked.
 * XSA-231: NUMA nodes in mem_flags were not checked. XSA-385: a guest could get more memory than its maximum. */
#include "guest.h"

static long reserve(unsigned command, xen_pfn_t *extents, unsigned long count, unsigned order, unsigned flags)
{
    struct xen_memory_reservation argument = {.nr_extents = count, .extent_order = order, .mem_flags = flags, .domid = DOMID_SELF};

    set_xen_guest_handle(argument.extent_start, extents);
    return hypercall_memory_op(command, &argument);
}

static long pages(unsigned command)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return hypercall_memory_op(command, &self);
}

PROGRAM(xsa_014_populate_flags)
{
    static const unsigned commands[] = {XENMEM_populate_physmap, XENMEM_increase_reservation, XENMEM_decrease_reservation};
    static const unsigned orders[] = {10, 18, 21, 31, 52, 63, 64, 1 << 31, ~0U};
    long before = pages(XENMEM_current_reservation), maximum = pages(XENMEM_maximum_reservation), room = maximum - before, got;
    xen_pfn_t extents[4] = {0x100000, 1UL << 52, ~0UL, 5};

    check(maximum >= before, "the reservation is within its maximum");
    got = reserve(XENMEM_populate_physmap, extents, 1, 0, XENMEMF_populate_on_demand);
    check(got <= 1, "XSA-14: populate on demand for a PV guest answers %ld", got);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        for (size_t j = 0; j < ARRAY_SIZE(orders); j++) {
            xen_pfn_t extent[1] = {virt_to_mfn(kernel_stack_top - 8)};

            check(reserve(commands[i], extent, 1, orders[j], 0) <= 0, "XSA-31: memory_op %u of order %u", commands[i], orders[j]);
        }
    check(reserve(XENMEM_populate_physmap, extents, 1, 64, ~0U) <= 0, "XSA-231: all memory flags");
    extents[0] = 0x100000;
    got = reserve(XENMEM_populate_physmap, extents, 1, 0, XENMEMF_exact_node(0xfe));
    check(got <= 1, "XSA-231: an exact node that does not exist answers %ld", got);
    for (long i = 0; i < room + 16; i++) {
        xen_pfn_t extent[1] = {0x200000 + i};

        if (reserve(i & 1 ? XENMEM_populate_physmap : XENMEM_increase_reservation, extent, 1, 0, 0) != 1)
            break;
    }
    for (unsigned order = 0; order <= 9; order++) {
        xen_pfn_t extent[1] = {0x300000};

        reserve(XENMEM_populate_physmap, extent, 1, order, 0);
        check(pages(XENMEM_current_reservation) <= maximum, "XSA-385: not above the maximum with order %u", order);
    }
}
