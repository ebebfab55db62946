#include "litmus.h"

#include "check.h"
#include "clock.h"
#include "console.h"

#define LONGEST_SECONDS 3000
/* A busy host may run the vCPUs one after the other: go on until they meet, but not for ever. */
#define MOST_EXTRA_BATCHES 1000

static struct litmus_cell cells[LITMUS_CELLS];
static u64 histogram[LITMUS_OUTCOMES];
static const struct litmus *running;
static u64 batches, met;
static volatile bool more;

static void look_at_cells(void)
{
    unsigned first = running->outcome(&cells[0]);
    bool differ = false;

    for (unsigned i = 0; i < LITMUS_CELLS; i++) {
        unsigned outcome = running->outcome(&cells[i]);

        histogram[outcome]++;
        differ |= outcome != first;
        cells[i].x = cells[i].y = 0;
    }
    met += differ ? LITMUS_CELLS : 0;
}

static void __attribute__((noinline)) walk(unsigned thread)
{
    void (*part)(struct litmus_cell *, u64 *, u64 *) = running->parts[thread];

    for (unsigned i = 0; i < LITMUS_CELLS; i++) {
        u64 a = 0, b = 0;

        part(&cells[i], &a, &b);
        cells[i].registers[thread].a = a;
        cells[i].registers[thread].b = b;
    }
}

static void take_part(unsigned thread)
{
    u64 random = thread * 2 + 1;

    for (u64 batch = 0;; batch++) {
        if (thread == 0)
            more = batch < batches || (!met && batch < batches + MOST_EXTRA_BATCHES);
        smp_barrier(running->threads);
        if (!more)
            break;
        for (u64 delay = smp_random(&random) & 63; delay; delay--)
            barrier(); /* so that now one, now another comes first */
        walk(thread);
        smp_barrier(running->threads);
        if (thread == 0)
            look_at_cells();
    }
}

void litmus_run(const struct litmus *test, u64 rounds)
{
    u64 total = 0, forbidden = 0, relaxed = 0;

    running = test;
    met = 0;
    batches = (rounds + LITMUS_CELLS - 1) / LITMUS_CELLS;
    memset(histogram, 0, sizeof(histogram));
    if (!smp_run(test->threads, take_part, LONGEST_SECONDS)) {
        check(false, "%s: a vCPU did not end", test->name);
        return;
    }
    print("HISTOGRAM %s:", test->name);
    for (unsigned i = 0; i < LITMUS_OUTCOMES; i++) {
        if (!histogram[i])
            continue;
        total += histogram[i];
        forbidden += test->forbidden >> i & 1 ? histogram[i] : 0;
        relaxed += test->relaxed >> i & 1 ? histogram[i] : 0;
        print(" %x=%lu", i, histogram[i]);
    }
    print("; met in %lu of %lu\n", met, total);
    check(forbidden == 0, "%s: %lu of %lu rounds with an outcome that x86-TSO forbids", test->name, forbidden, total);
    check(met > 0, "%s: the vCPUs meet", test->name);
    if (test->relaxed)
        print("NOTE %s: %lu rounds with an outcome that needs a store buffer\n", test->name, relaxed);
}
