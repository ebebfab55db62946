/* Timer events interrupt a busy kernel loop that makes no hypercalls; nothing of its state is lost. */
#include "guest.h"

PROGRAM(event_interrupts_kernel)
{
    long port = event_bind_virq(VIRQ_TIMER, 0);
    u64 sum = 0, rounds = 0, deadline;

    for (int shot = 0; shot < 5; shot++) {
        unsigned before = event_counts[port];

        hypercall_set_timer_op(clock_now() + 2 * MILLISECONDS);
        deadline = clock_now() + 5 * SECONDS;
        events_enable();
        while (event_counts[port] == before && clock_now() < deadline)
            asm volatile("mov $1000, %%ecx\n1: lock incq %0\n incq %1\n dec %%ecx\n jnz 1b" : "+m"(sum), "+m"(rounds)::"ecx", "cc");
        events_disable();
        if (event_counts[port] == before)
            check(false, "timer %d arrived", shot);
    }
    check_equal(event_counts[port], 5, "five timer events");
    check_equal(sum, rounds, "no increment was lost or made twice");
    check(rounds > 0, "the loop ran (%lu rounds)", rounds);
}
