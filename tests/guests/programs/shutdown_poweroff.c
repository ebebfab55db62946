/* @expect poweroff
 * SCHEDOP_shutdown with SHUTDOWN_poweroff. */
#include "guest.h"

PROGRAM(shutdown_poweroff)
{
    check_equal(hypercall_sched_op(SCHEDOP_shutdown, (void *)UNMAPPED), -XEN_EFAULT, "a bad pointer");
    print("RESULT %s\n", checks_failed ? "FAIL" : "PASS");
    shutdown(SHUTDOWN_poweroff);
    print("FAIL shutdown returned\n");
}
