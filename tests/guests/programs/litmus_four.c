/* @vcpus 4
 * @timeout 60
 * Memory ordering between three and four vCPUs: stores become visible to all others at once (multi-copy atomicity). */
#include "guest.h"
#include "litmus.h"

#define PART(name, text) \
    static void name(struct litmus_cell *cell, u64 *a, u64 *b) \
    { \
        asm volatile(text : [a] "+r"(*a), [b] "+r"(*b), [x] "+m"(cell->x), [y] "+m"(cell->y) : [one] "r"(1UL) : "memory", "cc"); \
    }

PART(store_x, "movq %[one], %[x]")
PART(store_y, "movq %[one], %[y]")
PART(xchg_x, "movq %[one], %[b]\n xchgq %[b], %[x]")
PART(xchg_y, "movq %[one], %[b]\n xchgq %[b], %[y]")
PART(load_x_load_y, "movq %[x], %[a]\n movq %[y], %[b]")
PART(load_y_load_x, "movq %[y], %[a]\n movq %[x], %[b]")
PART(load_x_store_y, "movq %[x], %[a]\n movq %[one], %[y]")

/* What threads 2 and 3 read: the first in x, y; the second in y, x. */
static unsigned readers(const struct litmus_cell *cell)
{
    return cell->registers[2].a | cell->registers[2].b << 1 | cell->registers[3].a << 2 | cell->registers[3].b << 3;
}

/* What thread 1 read, and both of thread 2's. */
static unsigned chain(const struct litmus_cell *cell)
{
    return cell->registers[1].a | cell->registers[2].a << 1 | cell->registers[2].b << 2;
}

static const struct litmus tests[] = {
    {"IRIW", 4, {store_x, store_y, load_x_load_y, load_y_load_x}, readers, 1 << 5, 0},
    {"IRIW+xchg", 4, {xchg_x, xchg_y, load_x_load_y, load_y_load_x}, readers, 1 << 5, 0},
    {"WRC", 3, {store_x, load_x_store_y, load_y_load_x}, chain, 1 << 3, 0},
};

PROGRAM(litmus_four)
{
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++)
        litmus_run(&tests[i], smp_scaled(10000));
}
