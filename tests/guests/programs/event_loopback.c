/* alloc_unbound to oneself, bind_interdomain, and events both ways. */
#include "guest.h"

PROGRAM(event_loopback)
{
    long a = event_alloc_unbound(DOMID_SELF), b;

    check(a > 0, "alloc_unbound to DOMID_SELF gives port %ld", a);
    check_equal(event_send(a), 0, "send on an unbound port is silently dropped");
    check(!event_pending(a), "and sets nothing pending");
    b = event_bind_interdomain(DOMID_SELF, a);
    check(b > 0 && b != a, "bind_interdomain gives port %ld", b);
    check(event_pending(b), "the new port starts pending, in case an event was sent before");
    event_clear(b);
    events_forget();

    check_equal(event_send(a), 0, "send from a");
    check(event_pending(b) && !event_pending(a), "b is pending, a is not");
    check_equal(event_vcpu_info()->evtchn_upcall_pending, 1, "upcall_pending is set");
    check(event_vcpu_info()->evtchn_pending_sel & (1UL << (b / 64)), "the selector word is set");
    check_equal(event_upcalls, 0, "no upcall while masked");
    check_equal(event_send(b), 0, "send from b");
    check(event_pending(a), "a is pending");

    events_enable();
    check_equal(event_upcalls, 1, "one upcall when unmasked");
    check_equal(event_counts[a], 1, "it found a");
    check_equal(event_counts[b], 1, "it found b");
    check_equal(event_send(a), 0, "send from a, unmasked");
    check_equal(event_upcalls, 2, "an upcall at once, on the way out of the hypercall");
    check_equal(event_counts[b], 2, "for b");
    events_disable();

    check_equal(event_bind_interdomain(DOMID_SELF, a), -XEN_EINVAL, "a bound port can't be bound again");
    check_equal(event_close(b), 0, "close b");
    check_equal(event_send(a), 0, "send on a: it is unbound again");
    struct evtchn_status status;

    event_status(a, &status);
    check_equal(status.status, EVTCHNSTAT_unbound, "status of a");
    b = event_bind_interdomain(DOMID_SELF, a);
    check(b > 0, "and can be bound anew, port %ld", b);
    check_equal(event_close(a), 0, "close a");
    check_equal(event_close(a), -XEN_EINVAL, "close a twice");
}
