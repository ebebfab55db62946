/* A domain may have 1023 ports as xl makes it (max_evtchn_port); the next is refused and nothing breaks. */
#include "guest.h"

PROGRAM(event_limit)
{
    unsigned count = 0;
    long port, highest = 0, result;

    while ((port = event_alloc_unbound(DOMID_SELF)) > 0 && count < 5000) {
        count++;
        if (port > highest)
            highest = port;
    }
    check_equal(port, -XEN_ENOSPC, "the last alloc_unbound");
    check_equal(highest, 1023, "the highest port");
    check_equal(event_close(500), 0, "close port 500");
    check_equal(event_alloc_unbound(DOMID_SELF), 500, "the free port is given again");
    result = event_bind_interdomain(DOMID_SELF, 700);
    check_equal(result, -XEN_ENOSPC, "bind_interdomain needs a port too");
}
