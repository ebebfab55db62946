/* @expect running
 * Makes hypercalls without end. */
#include "guest.h"

PROGRAM(loop_hypercalls)
{
    print("RESULT PASS\n");
    for (;;)
        hypercall_xen_version(XENVER_version, NULL);
}
