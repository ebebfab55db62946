/* A handler that itself faults, three deep; each frame is right and each returns to its place. */
#include "guest.h"

static unsigned depth, deepest;
static u64 frame_rsp[4];

static void on_ud(struct registers *registers)
{
    depth++;
    if (depth > deepest)
        deepest = depth;
    frame_rsp[depth] = registers->rsp;
    if (depth < 3)
        asm volatile("ud2" ::: "memory");
    TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(UNMAPPED + depth) : "rax", "memory");
    registers->rax = trap_record.cr2;
    registers->rip += 2;
    depth--;
}

PROGRAM(trap_nested)
{
    u64 result;

    trap_set_handler(VECTOR_UD, on_ud);
    asm volatile("ud2" : "=a"(result)::"memory");
    check_equal(deepest, 3, "three handlers deep");
    check_equal(depth, 0, "all returned");
    check(frame_rsp[1] > frame_rsp[2] && frame_rsp[2] > frame_rsp[3], "each on the stack below");
    check_equal(result, UNMAPPED + 1, "and each had a page fault of its own");
}
