/* @expect crash
 * SCHEDOP_shutdown with SHUTDOWN_crash. */
#include "guest.h"

PROGRAM(shutdown_crash)
{
    check_equal(hypercall_sched_op(SCHEDOP_shutdown, (void *)UNMAPPED), -XEN_EFAULT, "a bad pointer");
    print("RESULT %s\n", checks_failed ? "FAIL" : "PASS");
    shutdown(SHUTDOWN_crash);
    print("FAIL shutdown returned\n");
}
