/* @expect crash
 * The page-fault handler's own code is not there: the first fault leads to the next without an end, until the stack runs out. */
#include "guest.h"

PROGRAM(triple_fault)
{
    struct trap_info table[2] = {{.vector = VECTOR_PF, .cs = FLAT_KERNEL_CS, .address = UNMAPPED}};

    check_equal(hypercall_set_trap_table(table), 0, "a page-fault handler at an unmapped address");
    print("about to fault\n");
    asm volatile("movb (%0), %%al" ::"r"(UNMAPPED + 0x1000) : "rax", "memory");
    check(false, "no guest gets here");
}
