/* @expect reboot
 * SCHEDOP_shutdown with SHUTDOWN_reboot. */
#include "guest.h"

PROGRAM(shutdown_reboot)
{
    check_equal(hypercall_sched_op(SCHEDOP_shutdown, (void *)UNMAPPED), -XEN_EFAULT, "a bad pointer");
    print("RESULT %s\n", checks_failed ? "FAIL" : "PASS");
    shutdown(SHUTDOWN_reboot);
    print("FAIL shutdown returned\n");
}
