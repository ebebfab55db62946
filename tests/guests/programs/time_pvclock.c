/* The paravirtual clock: monotonic, consistent with the TSC, and near real time as sleeping shows. */
#include "guest.h"

PROGRAM(time_pvclock)
{
    volatile struct vcpu_time_info *time = &event_vcpu_info()->time;
    u64 last = clock_now(), before, after, backwards = 0;

    check(time->tsc_to_system_mul, "tsc_to_system_mul is set");
    check_equal(time->version & 1, 0, "the version is even");
    check(last > 0, "the clock has started");
    for (int i = 0; i < 20000; i++) {
        u64 now = clock_now();

        backwards += now < last;
        last = now;
    }
    check_equal(backwards, 0, "20000 readings never go backwards");
    before = clock_now();
    clock_sleep(20 * MILLISECONDS);
    after = clock_now();
    check(after - before >= 20 * MILLISECONDS, "20 ms of sleep are at least that (%lu us)", (after - before) / 1000);
    check(after - before < 2 * SECONDS, "and not too much more");

    /* Frequency: (10^9 << 32) / mul >> shift */
    u64 hertz = multiply_divide(SECONDS, 1UL << 32, time->tsc_to_system_mul);

    hertz = time->tsc_shift >= 0 ? hertz >> time->tsc_shift : hertz << -time->tsc_shift;
    check(hertz > 100000000 && hertz < 10000000000UL, "the TSC runs at %lu kHz", hertz / 1000);
    /* The clock read around the TSC at both ends: bounds that hold however the vCPU is scheduled. */
    u64 outer = clock_now(), tsc = rdtsc(), inner = clock_now();

    clock_sleep(10 * MILLISECONDS);
    u64 inner_ns = clock_now() - inner, tsc_ns = multiply_divide(rdtsc() - tsc, SECONDS, hertz), outer_ns = clock_now() - outer;

    check(tsc_ns + 100 * MICROSECONDS >= inner_ns && tsc_ns <= outer_ns + 100 * MICROSECONDS, "TSC and clock agree: %lu us, between %lu and %lu",
          tsc_ns / 1000, inner_ns / 1000, outer_ns / 1000);
    check(shared_info->wc_sec > 1600000000U, "the wall clock is plausible");
    check_equal(shared_info->wc_version & 1, 0, "its version is even");
    check(shared_info->wc_nsec < 1000000000U, "wc_nsec is less than a second");
}
