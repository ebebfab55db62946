/* set_timer_op, the single-shot timer and the periodic timer. */
#include "guest.h"

static long port;

static u64 wait_event(u64 limit)
{
    u64 before = clock_now();

    event_wait(port, limit);
    return clock_now() - before;
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

    hypercall_set_timer_op(clock_now() + 5 * MILLISECONDS);
    waited = wait_event(2 * SECONDS);
    check(take(), "set_timer_op fires");
    check(waited >= 4 * MILLISECONDS && waited < 1 * SECONDS, "after %lu us", waited / 1000);
    hypercall_set_timer_op(clock_now() - 1);
    wait_event(1 * SECONDS);
    check(take(), "a time in the past fires at once");
    hypercall_set_timer_op(clock_now() + 10 * MILLISECONDS);
    check_equal(hypercall_set_timer_op(0), 0, "set_timer_op(0)");
    wait_event(25 * MILLISECONDS);
    check(!take(), "stops it");

    shot = (struct vcpu_set_singleshot_timer){.timeout_abs_ns = clock_now() + 5 * MILLISECONDS};
    check_equal(hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), 0, "set_singleshot_timer");
    waited = wait_event(2 * SECONDS);
    check(take(), "fires");
    check(waited >= 4 * MILLISECONDS && waited < 1 * SECONDS, "after %lu us", waited / 1000);
    shot = (struct vcpu_set_singleshot_timer){.timeout_abs_ns = clock_now() - 1000000, .flags = VCPU_SSHOTTMR_future};
    check_equal(hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot), -XEN_ETIME, "VCPU_SSHOTTMR_future with a past time");
    check(!take(), "does not fire");
    shot = (struct vcpu_set_singleshot_timer){.timeout_abs_ns = clock_now() + 10 * MILLISECONDS};
    hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &shot);
    check_equal(hypercall_vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0, "stop_singleshot_timer");
    wait_event(25 * MILLISECONDS);
    check(!take(), "stops it");
    check_equal(hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 55, &shot), -XEN_ENOENT, "of vCPU 55");

    check_equal(hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), 0, "set_periodic_timer 5 ms");
    start = clock_now();
    for (int i = 0; i < 4; i++) {
        wait_event(2 * SECONDS);
        check(take(), "tick %d", i);
    }
    check(clock_now() - start >= 14 * MILLISECONDS, "four ticks took %lu us", (clock_now() - start) / 1000);
    check_equal(hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "stop_periodic_timer");
    take();
    wait_event(20 * MILLISECONDS);
    check(!take(), "no tick after it");
    period.period_ns = 1000;
    check_equal(hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -XEN_EINVAL, "a period of 1 us");
    period.period_ns = ~0UL;
    check_equal(hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &period), -XEN_EINVAL, "a period of 2^64-1 ns");
}
