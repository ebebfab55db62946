/* @expect crash
 * HYPERVISOR_iret reads its frame from the guest's stack: an unreadable one crashes the domain. */
#include "guest.h"

PROGRAM(iret_bad_stack)
{
    print("about to iret\n");
    asm volatile("mov %0, %%rsp; mov $23, %%eax; syscall" ::"r"(UNMAPPED) : "memory");
    check(false, "no guest gets here");
}
