/* @modes 64 pae 32
 * Structures and lists of hypercalls in the layout of their caller: what is in them, how long their elements are, and 64-bit arguments of 32-bit callers. */
#include "grant.h"

#include <xen/arch-x86/hvm/start_info.h>

#define TIMER_VECTOR 0xf3

static volatile unsigned ticks;
static long timer_port;

static void upcall(struct registers *registers)
{
    (void)registers;
    event_take(0);
    ticks = event_counts[timer_port];
}

static long set_timer(u64 when)
{
#ifdef __x86_64__
    return HYPERCALL(set_timer_op, when);
#else
    return HYPERCALL(set_timer_op, (u32)when, (u32)(when >> 32));
#endif
}

static void memory_lists(void)
{
    struct { u64 address, size; u32 type; } __attribute__((packed)) map[8] = {0};
    struct xen_memory_map memory = {.nr_entries = 8};
    struct xen_memory_reservation reservation = {.nr_extents = 3, .domid = DOMID_SELF};
    struct xen_add_to_physmap_batch batch = {.domid = DOMID_SELF, .space = XENMAPSPACE_gmfn, .size = 3};
    domid_t self = DOMID_SELF;
    xen_pfn_t gfns[4] = {(FREE_HOLE >> 12) + 8, (FREE_HOLE >> 12) + 9, (FREE_HOLE >> 12) + 10, 0xdead};
    xen_pfn_t to[3] = {(FREE_HOLE >> 12) + 16, (FREE_HOLE >> 12) + 17, (FREE_HOLE >> 12) + 18};
    xen_ulong_t from[3] = {gfns[0], 0x3fffffff, gfns[2]};
    int errors[4] = {1, 1, 1, 77};
    long pages = HYPERCALL(memory_op, XENMEM_current_reservation, &self);

    set_xen_guest_handle(memory.buffer, map);
    check_equal(HYPERCALL(memory_op, XENMEM_memory_map, &memory), 0, "XENMEM_memory_map");
    check_equal(memory.nr_entries, start_info->memmap_entries, "as many ranges as in the start information");
    check_equal(memcmp(map, (void *)(unsigned long)start_info->memmap_paddr, 20), 0, "the first one is the same");
    check_equal(map[memory.nr_entries].type, 0, "nothing beyond");
    set_xen_guest_handle(reservation.extent_start, gfns);
    check_equal(HYPERCALL(memory_op, XENMEM_populate_physmap, &reservation), 3, "three pages");
    for (unsigned i = 0; i < 3; i++)
        *(volatile u32 *)(FREE_HOLE + (8 + i) * PAGE_SIZE) = 100 + i;
    check_equal(gfns[3], 0xdead, "the list's end is left alone");
    check_equal(HYPERCALL(memory_op, XENMEM_current_reservation, &self), pages + 3, "they count");
    set_xen_guest_handle(batch.idxs, from);
    set_xen_guest_handle(batch.gpfns, to);
    set_xen_guest_handle(batch.errs, errors);
    check_equal(HYPERCALL(memory_op, XENMEM_add_to_physmap_batch, &batch), 0, "a batch of moves");
    check_equal(errors[0], 0, "the first one");
    check(errors[1] < 0, "the second one is of no page");
    check_equal(errors[2], 0, "the third one");
    check_equal(errors[3], 77, "there is no fourth");
    check_equal(*(volatile u32 *)(FREE_HOLE + 16 * PAGE_SIZE), 100, "the first page is where it should be");
    check_equal(*(volatile u32 *)(FREE_HOLE + 18 * PAGE_SIZE), 102, "and the third");
}

static void grants(void)
{
    struct gnttab_copy copies[2] = {{.flags = GNTCOPY_dest_gref, .len = 8}, {.flags = GNTCOPY_source_gref, .len = 4}};
    struct gnttab_setup_table table = {.dom = DOMID_SELF, .nr_frames = 1, .status = 77};
    xen_pfn_t frames[2] = {0, 0xdead};
    u8 *first = page_alloc(), *second = page_alloc();

    grants_init();
    set_xen_guest_handle(table.frame_list, frames);
    check_equal(HYPERCALL(grant_table_op, GNTTABOP_setup_table, &table, 1), 0, "GNTTABOP_setup_table");
    check_equal(table.status, GNTST_okay, "its status");
    check(frames[0] != 0 && frames[1] == 0xdead, "one frame number, of the width that such a number has");
    memcpy(first, "abcdefgh", 8);
    grant_give(8, gfn_of(second), GTF_permit_access);
    copies[0].source.u.gmfn = gfn_of(first);
    copies[0].source.domid = copies[0].dest.domid = copies[1].source.domid = copies[1].dest.domid = DOMID_SELF;
    copies[0].source.domid = DOMID_SELF;
    copies[0].dest.domid = own_domid;
    copies[0].dest.u.ref = 8;
    copies[0].dest.offset = 16;
    copies[1].source.domid = own_domid;
    copies[1].source.u.ref = 8;
    copies[1].source.offset = 18;
    copies[1].dest.u.gmfn = gfn_of(first);
    copies[1].dest.offset = 100;
    check_equal(HYPERCALL(grant_table_op, GNTTABOP_copy, copies, 2), 0, "two copies");
    check_equal(copies[0].status, GNTST_okay, "status of the first");
    check_equal(copies[1].status, GNTST_okay, "status of the second");
    check_equal(memcmp(second + 16, "abcdefgh", 8), 0, "copied into the grant");
    check_equal(memcmp(first + 100, "cdef", 4), 0, "and out of it");
}

static void multicalls(void)
{
    static struct { struct multicall_entry entry[4]; unsigned long after; } list;
    struct xen_feature_info features = {.submap_idx = 0};
    xen_pfn_t gfn = (FREE_HOLE >> 12) + 32;
    struct xen_memory_reservation reservation = {.nr_extents = 1, .domid = DOMID_SELF};

    set_xen_guest_handle(reservation.extent_start, &gfn);
    list.after = 0xdead;
    list.entry[0].op = __HYPERVISOR_xen_version;
    list.entry[0].args[0] = XENVER_version;
    list.entry[1].op = __HYPERVISOR_xen_version;
    list.entry[1].args[0] = XENVER_get_features;
    list.entry[1].args[1] = (unsigned long)&features;
    list.entry[2].op = __HYPERVISOR_memory_op;
    list.entry[2].args[0] = XENMEM_populate_physmap;
    list.entry[2].args[1] = (unsigned long)&reservation;
    list.entry[3].op = 99;
    check_equal(HYPERCALL(multicall, list.entry, 4), 0, "a multicall");
    check_equal(list.entry[0].result, HYPERCALL(xen_version, XENVER_version, 0), "the version");
    check_equal(list.entry[1].result, 0, "the features");
    check(features.submap & 1U << 8, "with the callback vector");
    check_equal(list.entry[2].result, 1, "a page");
    check_equal((long)list.entry[3].result, -XEN_ENOSYS, "a call that there is not");
    check_equal(list.after, 0xdead, "the list's end is left alone");
}

static void times(void)
{
    struct sched_poll poll = {.nr_ports = 1};
    evtchn_port_t port = event_bind_ipi(0);
    volatile u32 *seconds = &shared_info->wc_sec;
    u64 before;

    check(*seconds > 1700000000, "the wall clock is where this width has it");
    set_xen_guest_handle(poll.ports, &port);
    before = clock_now();
    poll.timeout = before + 5 * MILLISECONDS;
    check_equal(HYPERCALL(sched_op, SCHEDOP_poll, &poll), 0, "SCHEDOP_poll");
    check(clock_now() >= poll.timeout, "until its time has come");
    event_unmask_locally(timer_port);
    before = clock_now();
    check_equal(set_timer(before + 5 * MILLISECONDS), 0, "set_timer_op");
    check(WAIT_FOR(ticks == 1), "the timer ticks");
    check(clock_now() - before < SECONDS && clock_now() - before >= 5 * MILLISECONDS, "at its time");
    check_equal(set_timer((1ULL << 62) - 1), 0, "far away");
    check(WAIT_FOR(ticks == 2), "is soon, for Linux' sake");
}

PROGRAM(structures)
{
    char text[1024];
    xen_platform_parameters_t platform[2] = {{0}, {0xdead}};

    timer_port = event_bind_virq(VIRQ_TIMER, 0);
    trap_set_handler(TIMER_VECTOR, upcall);
    hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, (u64)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | TIMER_VECTOR);
    interrupts_on();
    check_equal(HYPERCALL(xen_version, XENVER_capabilities, text), 0, "XENVER_capabilities");
    check_equal(HYPERCALL(xen_version, XENVER_platform_parameters, platform), 0, "XENVER_platform_parameters");
    check_equal(platform[1].virt_start, 0xdead, "one number of this width");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_stop_periodic_timer, 0), 0, "VCPUOP_stop_periodic_timer");
    memory_lists();
    grants();
    multicalls();
    times();
}
