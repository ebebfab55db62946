/* XSA-29, XSA-212: XENMEM_exchange wrote to unchecked addresses in the hypervisor. XSA-159: its error paths lost or freed pages twice.
 * XSA-31: its extent orders were not checked. Whatever the answer, nothing is lost and nothing is written outside. */
#include "guest.h"

static long exchange(xen_pfn_t *in, unsigned long in_count, unsigned in_order, xen_pfn_t *out, unsigned long out_count, unsigned out_order,
                     unsigned long done)
{
    struct xen_memory_exchange argument = {.in = {.nr_extents = in_count, .extent_order = in_order, .domid = DOMID_SELF},
                                           .out = {.nr_extents = out_count, .extent_order = out_order, .domid = DOMID_SELF},
                                           .nr_exchanged = done};

    set_xen_guest_handle(argument.in.extent_start, in);
    set_xen_guest_handle(argument.out.extent_start, out);
    return hypercall_memory_op(XENMEM_exchange, &argument);
}

static long current_pages(void)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return hypercall_memory_op(XENMEM_current_reservation, &self);
}

PROGRAM(xsa_029_memory_exchange)
{
    u64 *page = page_alloc();
    xen_pfn_t in[2] = {virt_to_mfn(page), 0xffffffffff}, *xen = (xen_pfn_t *)XEN_PRIVATE, *m2p = (xen_pfn_t *)HYPERVISOR_VIRT_START;
    unsigned long own_entry = machine_to_phys_mapping[virt_to_mfn(page)];
    long before = current_pages();

    *page = 0x5a5a;
    check(exchange(in, 1, 0, xen, 1, 0, 0) < 0, "XSA-29: output into Xen's memory");
    check(exchange(xen, 1, 0, in, 1, 0, 0) < 0, "XSA-29: input from Xen's memory");
    check(exchange(m2p, 1, 0, m2p, 1, 0, 0) < 0, "XSA-212: the M2P as both");
    check(exchange(in, 1, 0, in, 1, 0, 1UL << 60) < 0, "XSA-212: a start index that wraps the address into Xen's memory");
    check(exchange(in, 1, 0, in, 1, 0, ((u64)XEN_PRIVATE - (u64)in) / 8) < 0, "XSA-212: a start index that reaches Xen's memory");
    check(exchange(in, 1, 0, in, 2, 0, 0) < 0, "XSA-159: unequal sizes");
    check(exchange(in, 2, 0, in, 2, 0, 0) < 0, "XSA-159: one frame that does not exist");
    check(exchange(in, 1, 63, in, 1, 63, 0) < 0, "XSA-31: order 63");
    check(exchange(in, ~0UL, 0, in, ~0UL, 0, 0) < 0, "XSA-31: 2^64 - 1 extents");
    check_equal(current_pages(), before, "XSA-159: no page was lost or won");
    check_equal(*page, 0x5a5a, "the page is still ours");
    check_equal(machine_to_phys_mapping[virt_to_mfn(page)], own_entry, "and in the M2P");
    check_equal(map_page(page, page, PTE_DATA), 0, "and can be mapped");
}
