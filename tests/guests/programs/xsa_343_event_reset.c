/* @vcpus 2
 * XSA-343: EVTCHNOP_reset raced with operations on the ports. XSA-344: it was not preemptible. XSA-340: ports seen before they were complete.
 * vCPU 1 opens, binds, sends and closes without end while vCPU 0 resets. Events keep working afterwards. */
#include "guest.h"

static u8 second_stack[16384] __attribute__((aligned(16)));
static volatile u64 stop, done, turns;

static void second_main(void)
{
    while (!stop) {
        long port = event_alloc_unbound(DOMID_SELF), ipi = event_bind_ipi(1), virq = event_bind_virq(VIRQ_DEBUG, 1);

        if (port > 0) {
            long local = event_bind_interdomain(DOMID_SELF, port);

            event_send(local);
            event_close(turns & 1 ? port : local);
        }
        event_send(ipi);
        event_unmask(port);
        event_close(virq);
        turns++;
    }
    done = 1;
    hypercall_vcpu_op(VCPUOP_down, 1, NULL);
    for (;;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
}

PROGRAM(xsa_343_event_reset)
{
    static struct vcpu_guest_context context;
    struct evtchn_reset reset = {.dom = DOMID_SELF};
    u64 deadline;
    unsigned opened = 0;

    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    while (event_alloc_unbound(0) > 0)
        opened++;
    check(opened > 1000, "%u ports", opened);
    /* The console's port goes too: output is polled by the test. */
    check_equal(hypercall_event_channel_op(EVTCHNOP_reset, &reset), 0, "XSA-344: reset of all of them");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "vCPU 1 up");
    for (int i = 0; i < 200; i++) {
        long port = event_alloc_unbound(DOMID_SELF);

        event_bind_interdomain(DOMID_SELF, port);
        if (hypercall_event_channel_op(EVTCHNOP_reset, &reset))
            check(false, "XSA-343: reset %d", i);
        clock_sleep(50 * MICROSECONDS);
    }
    stop = 1;
    deadline = clock_now() + 5 * SECONDS;
    while (!done && clock_now() < deadline)
        clock_sleep(MILLISECONDS);
    check_equal(done, 1, "vCPU 1 has finished");
    check(turns > 10, "XSA-343: %lu turns", turns);
    check_equal(hypercall_event_channel_op(EVTCHNOP_reset, &reset), 0, "a last reset");
    long port = event_alloc_unbound(DOMID_SELF), local = event_bind_interdomain(DOMID_SELF, port);

    check(port > 0 && local > 0, "XSA-340: ports as new");
    event_clear(port);
    event_clear(local);
    check_equal(event_send(local), 0, "send");
    check(event_pending(port), "and it arrives");
    reset.dom = 0;
    check(hypercall_event_channel_op(EVTCHNOP_reset, &reset) < 0, "XSA-343: reset of domain 0");
}
