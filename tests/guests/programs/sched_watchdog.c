/* SCHEDOP_watchdog: set up, poke, destroy, and the limits. */
#include "guest.h"

static long watchdog(unsigned id, unsigned timeout)
{
    struct sched_watchdog argument = {.id = id, .timeout = timeout};

    return hypercall_sched_op(SCHEDOP_watchdog, &argument);
}

PROGRAM(sched_watchdog)
{
    long first = watchdog(0, 100), second = watchdog(0, 100);

    check_equal(first, 1, "the first watchdog");
    check_equal(second, 2, "the second");
    check_equal(watchdog(0, 100), -XEN_ENOSPC, "there are two");
    check_equal(watchdog(first, 200), 0, "poke the first");
    check_equal(watchdog(first, 0), 0, "destroy it");
    check_equal(watchdog(first, 100), -XEN_EINVAL, "it is gone");
    check_equal(watchdog(3, 100), -XEN_EINVAL, "id 3");
    check_equal(watchdog(0, 0), -XEN_EINVAL, "a new one without a timeout");
    check_equal(watchdog(second, 0), 0, "destroy the second");
}
