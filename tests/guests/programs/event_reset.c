/* EVTCHNOP_reset closes every port of the domain. */
#include "guest.h"

PROGRAM(event_reset)
{
    long a = event_alloc_unbound(DOMID_SELF), b = event_bind_interdomain(DOMID_SELF, a), virq = event_bind_virq(VIRQ_TIMER, 0);
    struct evtchn_reset other = {.dom = 0}, self = {.dom = DOMID_SELF};

    check(a > 0 && b > 0 && virq > 0, "three ports");
    check_equal(hypercall_event_channel_op(EVTCHNOP_reset, &other), -XEN_EPERM, "reset of domain 0");
    check_equal(event_send(a), 0, "the ports still work");
    /* The console's port goes too: the backend will not be told of what follows, but reads it when the domain stops. */
    check_equal(hypercall_event_channel_op(EVTCHNOP_reset, &self), 0, "reset of oneself");
    check_equal(event_send(a), -XEN_EINVAL, "the interdomain port is closed");
    check_equal(event_send(start_info->console.domU.evtchn), -XEN_EINVAL, "the console's port is closed");
    check(event_bind_virq(VIRQ_TIMER, 0) > 0, "VIRQ_TIMER can be bound again");
}
