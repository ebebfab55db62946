/* VIRQ_TIMER through an upcall, and SCHEDOP_block until it comes. */
#include "guest.h"

PROGRAM(event_virq_timer)
{
    long port = event_bind_virq(VIRQ_TIMER, 0);
    u64 before = clock_now(), after;

    check(port > 0, "bind VIRQ_TIMER");
    check_equal(hypercall_set_timer_op(before + 5 * MILLISECONDS), 0, "set_timer_op 5 ms ahead");
    hypercall_sched_op(SCHEDOP_block, NULL);
    after = clock_now();
    check(event_counts[port] >= 1, "the timer event arrived");
    check(after - before >= 5 * MILLISECONDS, "not before its time (%lu us)", (after - before) / 1000);
    check(after - before < 3 * SECONDS, "and soon (%lu us)", (after - before) / 1000);
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 0, "SCHEDOP_block unmasked upcalls");
    events_disable();
}
