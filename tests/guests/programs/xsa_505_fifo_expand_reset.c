/* @vcpus 2
 * XSA-505: EVTCHNOP_expand_array looked whether the FIFO ABI is on without the lock, while EVTCHNOP_reset turned it off. vCPU 1 resets without end
 * while vCPU 0 turns it on, expands the array and opens ports. */
#include "guest.h"

static volatile u64 stop, resets;
static unsigned turned_on, expanded;

static long init_control(unsigned long mfn, unsigned vcpu)
{
    struct evtchn_init_control argument = {.control_gfn = mfn, .vcpu = vcpu};

    return hypercall_event_channel_op(EVTCHNOP_init_control, &argument);
}

static void act(unsigned vcpu)
{
    static u8 *control, *array[2];
    struct evtchn_reset reset = {.dom = DOMID_SELF};

    if (vcpu) {
        while (!stop) {
            resets += hypercall_event_channel_op(EVTCHNOP_reset, &reset) == 0;
            hypercall_sched_op(SCHEDOP_yield, NULL);
        }
        return;
    }
    control = page_alloc();
    array[0] = page_alloc();
    array[1] = page_alloc();
    for (u64 i = 0, deadline = clock_now() + 3 * SECONDS; i < smp_scaled(2000) && (i < 100 || clock_now() < deadline); i++) {
        struct evtchn_expand_array expand = {.array_gfn = virt_to_mfn(array[i & 1])};
        long result;

        turned_on += init_control(virt_to_mfn(control), 0) == 0;
        result = hypercall_event_channel_op(EVTCHNOP_expand_array, &expand);
        expanded += result == 0;
        if (result && result != -XEN_EOPNOTSUPP && result != -XEN_EINVAL && result != -XEN_ENOSPC) /* 128 pages between two resets */
            check(false, "XSA-505: expand_array answers %ld", result);
        event_send(event_alloc_unbound(DOMID_SELF));
    }
    stop = 1;
}

PROGRAM(xsa_505_fifo_expand_reset)
{
    struct evtchn_reset reset = {.dom = DOMID_SELF};
    u8 *page = page_alloc();

    check(smp_run(2, act, 60), "both vCPUs have finished");
    check(turned_on && resets > 10, "XSA-505: the FIFO ABI was on %u times, the array expanded %u times, %lu resets", turned_on, expanded, resets);
    check_equal(hypercall_event_channel_op(EVTCHNOP_reset, &reset), 0, "a last reset");
    long port = event_alloc_unbound(DOMID_SELF), local = event_bind_interdomain(DOMID_SELF, port);

    check(port > 0 && local > 0, "ports as new");
    event_clear(port);
    check_equal(event_send(local), 0, "send, by the 2-level ABI");
    check(event_pending(port), "and it arrives");
    check_equal(init_control(virt_to_mfn(page), 0), 0, "the FIFO ABI can be turned on again");
}
