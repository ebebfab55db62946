/* XSA-20: a timer deadline that overflows made the timer interrupt loop for ever. */
#include "guest.h"

PROGRAM(xsa_020_timer_overflow)
{
    static const u64 deadlines[] = {1, 1UL << 62, (1UL << 63) - 1, 1UL << 63, ~0UL - 1, ~0UL};
    static const u64 periods[] = {0, 1, 999999, 1UL << 62, (1UL << 62) + 1, (1UL << 63) - 1, 1UL << 63, ~0UL};
    u64 started = clock_now();

    for (size_t i = 0; i < ARRAY_SIZE(deadlines); i++) {
        struct vcpu_set_singleshot_timer timer = {.timeout_abs_ns = deadlines[i]};

        hypercall_set_timer_op(deadlines[i]);
        hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &timer);
        timer.flags = VCPU_SSHOTTMR_future;
        hypercall_vcpu_op(VCPUOP_set_singleshot_timer, 0, &timer);
        clock_sleep(100 * MICROSECONDS);
    }
    for (size_t i = 0; i < ARRAY_SIZE(periods); i++) {
        struct vcpu_set_periodic_timer timer = {.period_ns = periods[i]};
        long result = hypercall_vcpu_op(VCPUOP_set_periodic_timer, 0, &timer);

        if (periods[i] < MILLISECONDS)
            check_equal(result, -XEN_EINVAL, "XSA-20: a period below a millisecond");
        clock_sleep(100 * MICROSECONDS);
    }
    check_equal(hypercall_vcpu_op(VCPUOP_stop_periodic_timer, 0, NULL), 0, "stop the periodic timer");
    check_equal(hypercall_vcpu_op(VCPUOP_stop_singleshot_timer, 0, NULL), 0, "stop the one-shot timer");
    check(clock_now() - started < 10 * SECONDS, "XSA-20: none of this took long");
}
