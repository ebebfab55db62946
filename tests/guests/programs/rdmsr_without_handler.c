/* @expect any
 * xen.h: "Xen will avoid trying to inject #GP (and hence crash the domain) when an RDMSR would require this, but no handler was set yet.
 * The precise conditions are implementation specific": either it goes on or the domain crashes, nothing else. */
#include "guest.h"

PROGRAM(rdmsr_without_handler)
{
    u32 low, high;

    hypercall_set_trap_table(NULL);
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x1b));
    check(true, "MSR 0x1b reads 0x%x%08x", high, low);
}
