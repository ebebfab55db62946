/* @vcpus 4
 * @timeout 60
 * The clock never goes back, whichever vCPU is asked. Xen's ABI lets it (by less than a microsecond); here it does not. */
#include "guest.h"

#define VCPUS 4

static volatile u64 latest, backwards, largest_step_back, reads[VCPUS], taken_over;
static u64 end_time;

static void read_always(unsigned vcpu)
{
    const volatile struct vcpu_time_info *time = &shared_info->vcpu_info[vcpu].time;
    u64 own = 0, count = 0;

    for (;;) {
        u64 before = latest, now, seen;

        asm volatile("lfence" ::: "memory"); /* or RDTSC could come first */
        now = clock_read(time);
        if (now < before) {
            __atomic_fetch_add(&backwards, 1, __ATOMIC_RELAXED);
            if (before - now > largest_step_back)
                largest_step_back = before - now;
        }
        if (before != own)
            __atomic_fetch_add(&taken_over, 1, __ATOMIC_RELAXED);
        own = now;
        for (seen = before; seen < now;)
            if (__atomic_compare_exchange_n(&latest, &seen, now, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
                break;
        count++;
        if (now >= end_time)
            break;
    }
    reads[vcpu] = count;
}

PROGRAM(time_monotonic)
{
    u64 total = 0;

    end_time = clock_now() + smp_scaled(3) * SECONDS; /* the host steers the clock once a second */
    check(smp_run(VCPUS, read_always, 3600), "all vCPUs end");
    for (unsigned vcpu = 0; vcpu < VCPUS; vcpu++)
        total += reads[vcpu];
    print("MET %lu readings, %lu after one of another vCPU\n", total, taken_over);
    check(backwards == 0, "%lu of %lu readings are earlier than one before, by %lu ns at most", backwards, total, largest_step_back);
    check(taken_over > 100, "the vCPUs take turns");
}
