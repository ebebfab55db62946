/* memory_op: what a domain is told of its memory and the machine's, and what it may not ask. */
#include "guest.h"

PROGRAM(memory_reservation)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF}, other = {.domid = 0}, nobody = {.domid = 0x7000};
    struct xen_machphys_mapping mapping;
    struct xen_machphys_mfn_list list = {.max_extents = 1};
    struct xen_add_to_physmap add = {.domid = DOMID_SELF};
    xen_pfn_t extent = 0;
    long current, maximum, highest;

    current = hypercall_memory_op(XENMEM_current_reservation, &self);
    check_equal(current, start_info->nr_pages, "current_reservation is nr_pages");
    maximum = hypercall_memory_op(XENMEM_maximum_reservation, &self);
    check(maximum >= current, "maximum_reservation is %ld", maximum);
    highest = hypercall_memory_op(XENMEM_maximum_ram_page, NULL);
    check(highest > 0, "maximum_ram_page is 0x%lx", highest);
    unsigned long above = 0;

    for (unsigned long pfn = 0; pfn < start_info->nr_pages; pfn++)
        above += pfn_to_mfn(pfn) > (unsigned long)highest;
    check_equal(above, 0, "no frame of ours lies above it");
    check_equal(hypercall_memory_op(XENMEM_current_reservation, &other), -XEN_EPERM, "current_reservation of domain 0");
    check_equal(hypercall_memory_op(XENMEM_current_reservation, &nobody), -XEN_ESRCH, "of no domain");
    check_equal(hypercall_memory_op(XENMEM_machphys_mapping, &mapping), 0, "machphys_mapping");
    check_equal(mapping.v_start, MACH2PHYS_VIRT_START, "v_start");
    check_equal(mapping.v_end, MACH2PHYS_VIRT_END, "v_end");
    check_equal(mapping.max_mfn, MACH2PHYS_NR_ENTRIES - 1, "max_mfn");
    set_xen_guest_handle(list.extent_start, &extent);
    check_equal(hypercall_memory_op(XENMEM_machphys_mfn_list, &list), 0, "machphys_mfn_list");
    check_equal(list.nr_extents, 1, "one extent given");
    check(hypercall_memory_op(XENMEM_add_to_physmap, &add) < 0, "add_to_physmap is not for PV");
    check_equal(hypercall_memory_op(63, &self), -XEN_ENOSYS, "an unknown command");
}
