/* Pointers that the guest may not use, of every kind, to every hypercall that takes one: -EFAULT, and the domain lives on. */
#include "guest.h"

static u8 read_only_page[PAGE_SIZE] page_aligned;

static const struct {
    unsigned long address;
    const char *what;
} bad[] = {
    {UNMAPPED, "unmapped"},
    {NON_CANONICAL, "non-canonical"},
    {0x7ffffffffff8, "at the end of the lower half"},
    {XEN_PRIVATE, "in Xen's private range"},
    {0xffffffffffffffff, "the last byte"},
    {0x10, "in page 0"},
};

static void each_answers(long wanted, unsigned number, const char *name, unsigned position, unsigned long a1, unsigned long a2, unsigned long a3,
                         unsigned long a4)
{
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        unsigned long arguments[4] = {a1, a2, a3, a4};
        long result;

        arguments[position] = bad[i].address;
        result = hypercall(number, arguments[0], arguments[1], arguments[2], arguments[3], 0);
        if (result != wanted)
            check(false, "%s with a pointer %s is %ld, got %ld", name, bad[i].what, wanted, result);
    }
    check(true, "%s", name);
}

#define each(...) each_answers(-XEN_EFAULT, __VA_ARGS__)
/* The reservation calls answer with the number of extents done: none. */
#define each_does_nothing(...) each_answers(0, __VA_ARGS__)

PROGRAM(bad_hypercall_args)
{
    struct xen_memory_reservation reservation = {.nr_extents = 1, .domid = DOMID_SELF};
    u8 *page = page_alloc();
    struct mmu_update update = {.ptr = ((u64)virt_to_mfn(page) << 12) | MMU_MACHPHYS_UPDATE, .val = mfn_to_pfn(virt_to_mfn(page))};

    each(__HYPERVISOR_set_trap_table, "set_trap_table", 0, 0, 0, 0, 0);
    each(__HYPERVISOR_mmu_update, "mmu_update", 0, 0, 1, 0, DOMID_SELF);
    each(__HYPERVISOR_set_gdt, "set_gdt", 0, 0, 512, 0, 0);
    each(__HYPERVISOR_mmuext_op, "mmuext_op", 0, 0, 1, 0, DOMID_SELF);
    each(__HYPERVISOR_multicall, "multicall", 0, 0, 1, 0, 0);
    each_does_nothing(__HYPERVISOR_memory_op, "memory_op increase_reservation", 1, XENMEM_increase_reservation, 0, 0, 0);
    each_does_nothing(__HYPERVISOR_memory_op, "memory_op populate_physmap", 1, XENMEM_populate_physmap, 0, 0, 0);
    each(__HYPERVISOR_memory_op, "memory_op current_reservation", 1, XENMEM_current_reservation, 0, 0, 0);
    each(__HYPERVISOR_memory_op, "memory_op machphys_mapping", 1, XENMEM_machphys_mapping, 0, 0, 0);
    each(__HYPERVISOR_xen_version, "xen_version extraversion", 1, XENVER_extraversion, 0, 0, 0);
    each(__HYPERVISOR_xen_version, "xen_version get_features", 1, XENVER_get_features, 0, 0, 0);
    each(__HYPERVISOR_grant_table_op, "grant_table_op query_size", 1, GNTTABOP_query_size, 0, 1, 0);
    each(__HYPERVISOR_grant_table_op, "grant_table_op setup_table", 1, GNTTABOP_setup_table, 0, 1, 0);
    each(__HYPERVISOR_vcpu_op, "vcpu_op get_runstate_info", 2, VCPUOP_get_runstate_info, 0, 0, 0);
    each(__HYPERVISOR_vcpu_op, "vcpu_op set_singleshot_timer", 2, VCPUOP_set_singleshot_timer, 0, 0, 0);
    each(__HYPERVISOR_vcpu_op, "vcpu_op register_vcpu_info", 2, VCPUOP_register_vcpu_info, 0, 0, 0);
    each(__HYPERVISOR_sched_op, "sched_op shutdown", 1, SCHEDOP_shutdown, 0, 0, 0);
    each(__HYPERVISOR_sched_op, "sched_op poll", 1, SCHEDOP_poll, 0, 0, 0);
    each(__HYPERVISOR_callback_op, "callback_op register", 1, CALLBACKOP_register, 0, 0, 0);
    each(__HYPERVISOR_event_channel_op, "event_channel_op alloc_unbound", 1, EVTCHNOP_alloc_unbound, 0, 0, 0);
    each(__HYPERVISOR_event_channel_op, "event_channel_op bind_virq", 1, EVTCHNOP_bind_virq, 0, 0, 0);
    each(__HYPERVISOR_event_channel_op, "event_channel_op send", 1, EVTCHNOP_send, 0, 0, 0);
    each(__HYPERVISOR_event_channel_op, "event_channel_op status", 1, EVTCHNOP_status, 0, 0, 0);
    each(__HYPERVISOR_physdev_op, "physdev_op set_iopl", 1, PHYSDEVOP_set_iopl, 0, 0, 0);
    each(__HYPERVISOR_nmi_op, "nmi_op register_callback", 1, XENNMI_register_callback, 0, 0, 0);

    check_equal(hypercall_mmu_update(&update, 1, (unsigned *)UNMAPPED, DOMID_SELF), 0, "mmu_update with a bad done pointer, which nobody tells");
    *(struct evtchn_alloc_unbound *)page = (struct evtchn_alloc_unbound){.dom = DOMID_SELF, .remote_dom = DOMID_SELF};
    check_equal(map_page(read_only_page, page, PTE_READ_ONLY), 0, "map a page read-only");
    check_equal(hypercall_xen_version(XENVER_extraversion, read_only_page), -XEN_EFAULT, "an answer into a read-only page");
    check_equal(hypercall_event_channel_op(EVTCHNOP_alloc_unbound, read_only_page), -XEN_EFAULT,
                "an answer into a read-only argument structure");
    set_xen_guest_handle(reservation.extent_start, (xen_pfn_t *)UNMAPPED);
    check(hypercall_memory_op(XENMEM_decrease_reservation, &reservation) <= 0, "a bad extent list frees nothing");
    reservation.nr_extents = ~0UL;
    check(hypercall_memory_op(XENMEM_decrease_reservation, &reservation) <= 0, "an absurd number of extents frees nothing");

    /* A structure that crosses from a mapped page into an unmapped one. */
    static u8 edge[2 * PAGE_SIZE] page_aligned;

    check_equal(map_frame(edge + PAGE_SIZE, 0, 0), 0, "unmap the second page");
    check_equal(hypercall_xen_version(XENVER_capabilities, edge + PAGE_SIZE - 8), -XEN_EFAULT, "an answer that crosses into an unmapped page");
    check_equal(hypercall_event_channel_op(EVTCHNOP_status, edge + PAGE_SIZE - 8), -XEN_EFAULT, "an argument that crosses");
}
