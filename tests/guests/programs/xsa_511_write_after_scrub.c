/* @vcpus 2
 * XSA-511: a page that a guest gave back was scrubbed before stale translations were flushed, so that it could still be written. vCPU 1 writes to a
 * page without end; vCPU 0 takes it out of the tables without a flush, gives it back, and looks at the pages that it gets instead. */
#include "guest.h"

#define ROUNDS 200

static u8 window[PAGE_SIZE] page_aligned, view[PAGE_SIZE] page_aligned;
static volatile u64 stop, writes;
static unsigned dirty, exchanged;

static long reservation(unsigned command, xen_pfn_t *extent)
{
    struct xen_memory_reservation argument = {.nr_extents = 1, .domid = DOMID_SELF};

    set_xen_guest_handle(argument.extent_start, extent);
    return hypercall_memory_op(command, &argument);
}

static bool is_clear(const volatile u64 *page)
{
    for (unsigned i = 0; i < 512; i++)
        if (page[i])
            return false;
    return true;
}

static void exchange(void)
{
    static unsigned long spare;
    unsigned long pfn;
    xen_pfn_t frame;
    u8 *page;
    u64 before;

    page = spare ? mfn_to_virt(spare) : page_alloc();
    pfn = ((unsigned long)page - VIRT_BASE) >> 12;
    frame = pfn_to_mfn(pfn);
    map_frame(window, frame, PTE_DATA);
    for (before = writes; writes < before + 20 && !stop;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    pte_write(pte_of((unsigned long)page, 1), 0);
    pte_write(pte_of((unsigned long)window, 1), 0);
    if (reservation(XENMEM_decrease_reservation, &frame) != 1)
        check(false, "give the page back");
    frame = pfn;
    if (reservation(XENMEM_populate_physmap, &frame) != 1)
        check(false, "get another");
    ((xen_pfn_t *)start_info->mfn_list)[pfn] = frame;
    map_frame(view, frame, PTE_DATA);
    dirty += !is_clear((u64 *)view);
    for (before = writes; writes < before + 20 && !stop;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    dirty += !is_clear((u64 *)view);
    pte_write(pte_of((unsigned long)view, 1), 0);
    map_frame(page, frame, PTE_DATA);
    spare = frame;
    exchanged++;
}

static void act(unsigned vcpu)
{
    if (vcpu) {
        while (!stop) {
            asm volatile(MAY_FAULT("movq $0x55, (%0)")::"r"(window + 8 * (writes & 511)) : "memory");
            writes++;
        }
        return;
    }
    for (u64 deadline = clock_now() + 4 * SECONDS; exchanged < smp_scaled(ROUNDS) && clock_now() < deadline;)
        exchange();
    stop = 1;
}

PROGRAM(xsa_511_write_after_scrub)
{
    check(smp_run(2, act, 60), "both vCPUs have finished");
    check(exchanged > 10, "XSA-511: %u pages were given back and others taken, while another vCPU wrote %lu times", exchanged, writes);
    check_equal(dirty, 0, "XSA-511: all of those were clear, and stayed so");
}
