/* EVTCHNOP_status for every kind of port. */
#include "guest.h"

PROGRAM(event_status)
{
    struct evtchn_status status;
    long unbound = event_alloc_unbound(0), a = event_alloc_unbound(DOMID_SELF), b = event_bind_interdomain(DOMID_SELF, a);
    long virq = event_bind_virq(VIRQ_TIMER, 0), ipi = event_bind_ipi(0);

    check_equal(event_status(unbound, &status), 0, "status of an unbound port");
    check_equal(status.status, EVTCHNSTAT_unbound, "is unbound");
    check_equal(status.u.unbound.dom, 0, "for domain 0");
    check_equal(status.vcpu, 0, "on vCPU 0");
    check_equal(event_status(a, &status), 0, "status of an interdomain port");
    check_equal(status.status, EVTCHNSTAT_interdomain, "is interdomain");
    check_equal(status.u.interdomain.port, b, "with the other port");
    check_equal(event_status(virq, &status), 0, "status of a VIRQ port");
    check_equal(status.status, EVTCHNSTAT_virq, "is virq");
    check_equal(status.u.virq, VIRQ_TIMER, "of VIRQ_TIMER");
    check_equal(event_status(ipi, &status), 0, "status of an IPI port");
    check_equal(status.status, EVTCHNSTAT_ipi, "is ipi");
    check_equal(event_close(ipi), 0, "close it");
    check_equal(event_status(ipi, &status), 0, "status of a closed port");
    check_equal(status.status, EVTCHNSTAT_closed, "is closed");
    check_equal(event_status(start_info->console.domU.evtchn, &status), 0, "status of the console port");
    check(status.status == EVTCHNSTAT_unbound || status.status == EVTCHNSTAT_interdomain, "is unbound or interdomain");
    check_equal(event_status(start_info->store_evtchn, &status), 0, "status of the store port");
    check(status.status == EVTCHNSTAT_unbound || status.status == EVTCHNSTAT_interdomain, "is unbound or interdomain");
    check_equal(event_status(100000, &status), -XEN_EINVAL, "a port that can't exist");
    status = (struct evtchn_status){.dom = 0, .port = 1};
    check_equal(hypercall_event_channel_op(EVTCHNOP_status, &status), -XEN_EPERM, "of domain 0");
    status = (struct evtchn_status){.dom = 0x7000, .port = 1};
    check_equal(hypercall_event_channel_op(EVTCHNOP_status, &status), -XEN_ESRCH, "of a domain that does not exist");
}
