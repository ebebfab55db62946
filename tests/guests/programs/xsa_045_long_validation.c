/* @timeout 60
 * XSA-45: validation of large page tables was not preemptible. XSA-252: nor was their release. XSA-290: release of L3 and L4 tables again.
 * XSA-264: checks for preemption were bypassed. XSA-58, XSA-299, XSA-310: what was preempted was counted wrongly.
 * A tree with 512 references at each level, pinned, changed and released, again and again; an interval timer keeps interrupting. */
#include "guest.h"

static void fill(u64 *table, unsigned count, const void *target)
{
    static struct mmu_update updates[512];

    for (unsigned i = 0; i < count; i++)
        updates[i] = (struct mmu_update){.ptr = pte_machine_address(&table[i]), .val = make_pte(virt_to_mfn(target), PTE_TABLE)};
    check_equal(hypercall_mmu_update(updates, count, NULL, DOMID_SELF), 0, "fill a table");
}

PROGRAM(xsa_045_long_validation)
{
    u64 *l1 = table_alloc(), *l2 = table_alloc(), *l3 = table_alloc(), *l4 = table_alloc(), *page = page_alloc();
    struct vcpu_set_periodic_timer timer = {.period_ns = MILLISECONDS};
    long port = event_bind_virq(VIRQ_TIMER, 0);

    hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &timer);
    event_unmask_locally(port);
    events_enable();
    fill(l1, 512, page);
    fill(l2, 512, l1);
    fill(l3, 512, l2);
    fill(l4, 256, l3);
    for (int i = 0; i < 5; i++) {
        check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(l4), 0), 0, "XSA-45: pin the tree");
        check_equal(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(l2), 0), 0, "XSA-264: pin in the middle");
        check_equal(mmuext(MMUEXT_PIN_L3_TABLE, virt_to_mfn(l2), 0), -XEN_EINVAL, "XSA-58: a wrong type leaves no reference");
        check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l2), 0), 0, "XSA-264: unpin in the middle");
        check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l4), 0), 0, "XSA-252: unpin the tree");
        check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l4), 0), -XEN_EINVAL, "XSA-310: only once");
    }
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(l4), 0), 0, "pin it again");
    for (int i = 0; i < 256; i++)
        pte_write(&l4[i], 0);
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l4), 0), 0, "XSA-290: the empty root");
    events_disable();
    hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL);
    check_equal(map_page(l1, l1, PTE_DATA), 0, "XSA-299: nothing refers to the L1 any more");
    check_equal(map_page(l2, l2, PTE_DATA), 0, "XSA-299: nor to the L2");
    check_equal(map_page(l3, l3, PTE_DATA), 0, "XSA-290: nor to the L3");
    check_equal(map_page(l4, l4, PTE_DATA), 0, "XSA-290: nor to the L4");
    check(event_counts[port] > 0 || event_upcalls > 0, "the timer got through (%u upcalls)", event_upcalls);
}
