/* @expect suspend
 * SCHEDOP_shutdown with SHUTDOWN_suspend: the third argument is the frame of start_info. If the toolstack resumes the domain as cancelled, it answers 1. */
#include "guest.h"

PROGRAM(shutdown_suspend)
{
    long result;

    print("RESULT PASS\n");
    result = shutdown(SHUTDOWN_suspend);
    check_equal(result, 1, "resumed after a suspend that was cancelled");
}
