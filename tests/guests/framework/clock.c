#include "clock.h"

#include "event.h"
#include "hypercall.h"

u64 clock_read(const volatile struct vcpu_time_info *time)
{
    u32 version;
    u64 now;

    do {
        u64 delta;

        version = time->version;
        barrier();
        delta = rdtsc() - time->tsc_timestamp;
        if (time->tsc_shift >= 0)
            delta <<= time->tsc_shift;
        else
            delta >>= -time->tsc_shift;
        now = time->system_time + (u64)(((unsigned __int128)delta * time->tsc_to_system_mul) >> 32);
        barrier();
    } while ((version & 1) || version != time->version);
    return now;
}

u64 clock_now(void)
{
    return clock_read(&event_vcpu_info()->time);
}

void clock_sleep(u64 nanoseconds)
{
    struct sched_poll argument = {.nr_ports = 0, .timeout = clock_now() + nanoseconds};

    do
        hypercall_sched_op(SCHEDOP_poll, &argument); /* any event of the domain ends it, also one of the masked console */
    while (clock_now() < argument.timeout && !event_vcpu_info()->evtchn_upcall_pending);
}
