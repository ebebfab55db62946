/* An IPI port notifies the vCPU it is bound to when it is sent to, here the sender itself. */
#include "guest.h"

PROGRAM(event_ipi)
{
    long ipi = event_bind_ipi(0);

    check(ipi > 0, "bind_ipi gives port %ld", ipi);
    check(!event_pending(ipi), "it does not start pending");
    check_equal(event_send(ipi), 0, "send");
    check(event_pending(ipi), "pending");
    events_enable();
    check_equal(event_counts[ipi], 1, "received");
    for (int i = 0; i < 100; i++)
        event_send(ipi);
    check_equal(event_counts[ipi], 101, "a hundred more, one upcall each");
    events_disable();
}
