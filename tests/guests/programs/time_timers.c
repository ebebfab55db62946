/* set_timer_op, the single-shot timer and the periodic timer. */
#include "guest.h"

static long port;

/* Wait for the timer's event; -> nanoseconds since `start`. */
static u64 wait_event(u64 start, u64 limit)
{
    event_wait(port, limit);
    return clock_now() - start;
}

static bool take(void)
{
    bool pending = event_pending(port);

    event_clear(port);
    return pending;
}

PROGRAM(time_timers)
{
    struct vcpu_set_singleshot_timer shot;
    struct vcpu_set_periodic_timer period = {.period_ns = 5 * MILLISECONDS};
    u64 waited, start;

    port = event_bind_virq(VIRQ_TIMER, 0);
    check(!take(), "no timer at the start");

    start = clock_now();
    hypercall_set_timer_op(start + 5 * MILLISECONDS);
    waited = wait_event(start, 2 * SECONDS);
    check(take(), "set_timer_op fires");
    check(waited >= 5 * MILLISECONDS && waited < 2 * SECONDS, "after %lu us", waited / 1000);
    hypercall_set_timer_op(clock_now() - 1);
    event_wait(port, SECONDS);
    check(take(), "a time in the past fires at once");
    hypercall_set_timer_op(clock_now() + 60 * MILLISECONDS);
    check_equal(hypercall_set_timer_op(0), 0, "set_timer_op(0)");
    event_wait(port, 90 * MILLISECONDS);
    check(!take(), "stops it");

    start = clock_now();
    shot = (struct vcpu_set_singleshot_timer){.timeout_abs_ns = start + 5 * MILLISECONDS};
    check_equal(hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), 0, "set_singleshot_timer");
    waited = wait_event(start, 2 * SECONDS);
    check(take(), "fires");
    check(waited >= 5 * MILLISECONDS && waited < 2 * SECONDS, "after %lu us", waited / 1000);
    shot = (struct vcpu_set_singleshot_timer){.timeout_abs_ns = clock_now() - 1000000, .flags = VCPU_SSHOTTMR_future};
    check_equal(hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), -XEN_ETIME, "VCPU_SSHOTTMR_future with a past time");
    check(!take(), "does not fire");
    shot = (struct vcpu_set_singleshot_timer){.timeout_abs_ns = clock_now() + 60 * MILLISECONDS};
    hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot);
    check_equal(hypercall_vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0, "stop_singleshot_timer");
    event_wait(port, 90 * MILLISECONDS);
    check(!take(), "stops it");
    check_equal(hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 55, &shot), -XEN_ENOENT, "of vCPU 55");

    start = clock_now();
    check_equal(hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), 0, "set_periodic_timer 5 ms");
    for (int i = 0; i < 4; i++) {
        event_wait(port, 2 * SECONDS);
        check(take(), "tick %d", i);
    }
    check(clock_now() - start >= 19 * MILLISECONDS, "four ticks took %lu us", (clock_now() - start) / 1000);
    check_equal(hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "stop_periodic_timer");
    take();
    event_wait(port, 20 * MILLISECONDS);
    check(!take(), "no tick after it");
    period.period_ns = 1000;
    check_equal(hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -XEN_EINVAL, "a period of 1 us");
    period.period_ns = ~0UL;
    check_equal(hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -XEN_EINVAL, "a period of 2^64-1 ns");
}
