/* @bench
 * How late a sleeping vCPU runs after its timer, SCHEDOP_poll with a time limit: best, median, 90 % and worst of 200. */
#include "guest.h"

#define SAMPLES 200

static u64 late[SAMPLES];

static void sort(u64 *values, int count)
{
    for (int i = 1; i < count; i++)
        for (int j = i; j > 0 && values[j - 1] > values[j]; j--) {
            u64 swapped = values[j];

            values[j] = values[j - 1];
            values[j - 1] = swapped;
        }
}

PROGRAM(bench_wakeup)
{
    struct sched_poll argument = {.nr_ports = 0};

    for (int i = 0; i < SAMPLES; i++) {
        u64 deadline = clock_now() + (5 + i % 7) * MILLISECONDS, now;

        argument.timeout = deadline;
        do {
            hypercall_sched_op(SCHEDOP_poll, &argument);
            now = clock_now();
        } while (now < deadline);
        late[i] = now - deadline;
    }
    sort(late, SAMPLES);
    print("BENCH wakeup_best %lu us\n", late[0] / 1000);
    print("BENCH wakeup_median %lu us\n", late[SAMPLES / 2] / 1000);
    print("BENCH wakeup_90_percent %lu us\n", late[SAMPLES * 9 / 10] / 1000);
    print("BENCH wakeup_worst %lu us\n", late[SAMPLES - 1] / 1000);
}
