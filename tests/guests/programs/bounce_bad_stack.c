/* @expect crash
 * An exception in kernel mode with RSP in nowhere: Xen can't push the frame and crashes the domain. */
#include "guest.h"

PROGRAM(bounce_bad_stack)
{
    print("about to fault\n");
    asm volatile("mov %0, %%rsp; ud2" ::"r"(UNMAPPED) : "memory");
    check(false, "no guest gets here");
}
