/* @vcpus 2
 * @timeout 60
 * Memory ordering between two vCPUs: x86-TSO and nothing weaker, with and without fences, locked operations and non-temporal stores. */
#include "guest.h"
#include "litmus.h"

#define PART(name, text) \
    static void name(struct litmus_cell *cell, u64 *a, u64 *b) \
    { \
        asm volatile(text : [a] "+r"(*a), [b] "+r"(*b), [x] "+m"(cell->x), [y] "+m"(cell->y) : [one] "r"(1UL), [two] "r"(2UL) : "memory", "cc"); \
    }

PART(store_x_load_y, "movq %[one], %[x]\n movq %[y], %[a]")
PART(store_y_load_x, "movq %[one], %[y]\n movq %[x], %[a]")
PART(store_x_mfence_load_y, "movq %[one], %[x]\n mfence\n movq %[y], %[a]")
PART(store_y_mfence_load_x, "movq %[one], %[y]\n mfence\n movq %[x], %[a]")
PART(store_x_locked_load_y, "movq %[one], %[x]\n lock addq $0, -8(%%rsp)\n movq %[y], %[a]")
PART(store_y_locked_load_x, "movq %[one], %[y]\n lock addq $0, -8(%%rsp)\n movq %[x], %[a]")
PART(xchg_x_load_y, "movq %[one], %[b]\n xchgq %[b], %[x]\n movq %[y], %[a]")
PART(xchg_y_load_x, "movq %[one], %[b]\n xchgq %[b], %[y]\n movq %[x], %[a]")
PART(locked_x_load_y, "lock orq %[one], %[x]\n movq %[y], %[a]")
PART(locked_y_load_x, "lock orq %[one], %[y]\n movq %[x], %[a]")
PART(store_x_store_y, "movq %[one], %[x]\n movq %[one], %[y]")
PART(stream_x_sfence_store_y, "movnti %[one], %[x]\n sfence\n movq %[one], %[y]")
PART(stream_x_locked_y, "movnti %[one], %[x]\n lock orq %[one], %[y]")
PART(load_y_load_x, "movq %[y], %[a]\n movq %[x], %[b]")
PART(load_y_lfence_load_x, "movq %[y], %[a]\n lfence\n movq %[x], %[b]")
PART(load_x_store_y, "movq %[x], %[a]\n movq %[one], %[y]")
PART(load_y_store_x, "movq %[y], %[a]\n movq %[one], %[x]")
PART(load_x_twice, "movq %[x], %[a]\n movq %[x], %[b]")
PART(store_x, "movq %[one], %[x]")
PART(store_x1_y2, "movq %[one], %[x]\n movq %[two], %[y]")
PART(store_y1_x2, "movq %[one], %[y]\n movq %[two], %[x]")
PART(store_x1_load_x, "movq %[one], %[x]\n movq %[x], %[a]")
PART(store_x2_load_x, "movq %[two], %[x]\n movq %[x], %[a]")
PART(forward_x_load_y, "movq %[one], %[x]\n movq %[x], %[a]\n movq %[y], %[b]")
PART(forward_y_load_x, "movq %[one], %[y]\n movq %[y], %[a]\n movq %[x], %[b]")

/* What thread 0 and thread 1 read first. */
static unsigned both(const struct litmus_cell *cell)
{
    return cell->registers[0].a | cell->registers[1].a << 1;
}

/* What thread 1 read first and second. */
static unsigned reader(const struct litmus_cell *cell)
{
    return cell->registers[1].a | cell->registers[1].b << 1;
}

/* What thread 0 and thread 1 read second. */
static unsigned second(const struct litmus_cell *cell)
{
    return cell->registers[0].b | cell->registers[1].b << 1;
}

/* The final values of x and y, each 1 or 2. */
static unsigned finally(const struct litmus_cell *cell)
{
    return (cell->x - 1) | (cell->y - 1) << 1;
}

/* n5: what each read of the one variable that both wrote, 1 or 2, and what it is at last. */
static unsigned own(const struct litmus_cell *cell)
{
    return (cell->registers[0].a - 1) | (cell->registers[1].a - 1) << 1 | (cell->x - 1) << 2;
}

static const struct litmus tests[] = {
    {"SB", 2, {store_x_load_y, store_y_load_x}, both, 0, 1 << 0},
    {"SB+rfi", 2, {forward_x_load_y, forward_y_load_x}, second, 0, 1 << 0},
    {"SB+mfence", 2, {store_x_mfence_load_y, store_y_mfence_load_x}, both, 1 << 0, 0},
    {"SB+locked-elsewhere", 2, {store_x_locked_load_y, store_y_locked_load_x}, both, 1 << 0, 0},
    {"SB+xchg", 2, {xchg_x_load_y, xchg_y_load_x}, both, 1 << 0, 0},
    {"SB+locked-store", 2, {locked_x_load_y, locked_y_load_x}, both, 1 << 0, 0},
    {"MP", 2, {store_x_store_y, load_y_load_x}, reader, 1 << 1, 0},
    {"MP+lfence", 2, {store_x_store_y, load_y_lfence_load_x}, reader, 1 << 1, 0},
    {"MP+movnti-sfence", 2, {stream_x_sfence_store_y, load_y_load_x}, reader, 1 << 1, 0},
    {"MP+movnti-locked", 2, {stream_x_locked_y, load_y_load_x}, reader, 1 << 1, 0},
    {"LB", 2, {load_x_store_y, load_y_store_x}, both, 1 << 3, 0},
    {"CoRR", 2, {store_x, load_x_twice}, reader, 1 << 1, 0},
    {"2+2W", 2, {store_x1_y2, store_y1_x2}, finally, 1 << 0, 0},
    {"n5", 2, {store_x1_load_x, store_x2_load_x}, own, 1 << 1 | 1 << 5, 0},
};

PROGRAM(litmus_two)
{
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++)
        litmus_run(&tests[i], smp_scaled(20000));
}
