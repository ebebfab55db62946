/* @expect running
 * Loops with upcalls masked and makes no hypercall: must be destroyed at once all the same. */
#include "guest.h"

PROGRAM(loop_masked)
{
    events_disable();
    print("RESULT PASS\n");
    asm volatile("1: jmp 1b");
}
