/* @expect crash
 * set_trap_table(NULL) clears the whole table: the next exception finds no handler and Xen crashes the domain. */
#include "guest.h"

PROGRAM(trap_table_null)
{
    struct trap_record trap = TRAP_OF(MAY_FAULT("ud2")::: "memory");

    check_trap(trap, VECTOR_UD, 0, "ud2 with a handler");
    check_equal(hypercall_set_trap_table(NULL), 0, "set_trap_table(NULL)");
    print("about to fault\n");
    asm volatile("ud2");
    check(false, "no guest gets here");
}
