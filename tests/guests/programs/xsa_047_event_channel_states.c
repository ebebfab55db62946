/* XSA-47: event-channel operations on ports in the wrong state used freed memory. XSA-221: polling a port that does not exist followed a null
 * pointer. XSA-317: a failed allocation left a port half open. XSA-338: a port that was valid once must not become a crash. */
#include "guest.h"

static long poll(evtchn_port_t port)
{
    struct sched_poll argument = {.nr_ports = 1, .timeout = 1};

    set_xen_guest_handle(argument.ports, &port);
    return hypercall_sched_op(SCHEDOP_poll, &argument);
}

PROGRAM(xsa_047_event_channel_states)
{
    static const evtchn_port_t ports[] = {0, 500, 4095, 4096, 0x1ffff, 0x20000, 0x7fffffff, ~0U};
    struct evtchn_bind_vcpu bind = {0};
    struct evtchn_set_priority priority = {.priority = 3};
    long port, opened = 0, last = 0;

    for (size_t i = 0; i < ARRAY_SIZE(ports); i++) {
        check(poll(ports[i]) <= 0, "XSA-221: poll port %u", ports[i]);
        check(event_send(ports[i]) < 0, "XSA-47: send on port %u", ports[i]);
        check(event_close(ports[i]) < 0, "XSA-47: close port %u", ports[i]);
        bind.port = priority.port = ports[i];
        check(hypercall_event_channel_op(EVTCHNOP_bind_vcpu, &bind) < 0, "XSA-47: bind_vcpu of port %u", ports[i]);
        check(hypercall_event_channel_op(EVTCHNOP_set_priority, &priority) < 0, "XSA-47: set_priority of port %u", ports[i]);
        check(event_bind_interdomain(DOMID_SELF, ports[i]) < 0, "XSA-47: bind to own port %u", ports[i]);
        check(event_bind_interdomain(0, ports[i]) < 0, "XSA-47: bind to domain 0's port %u", ports[i]);
    }
    while ((port = event_alloc_unbound(0)) > 0) {
        opened++;
        last = port;
    }
    check_equal(port, -XEN_ENOSPC, "XSA-317: all ports are used up");
    check_equal(event_bind_virq(VIRQ_DEBUG, 0), -XEN_ENOSPC, "XSA-317: a VIRQ finds none");
    check_equal(event_close(last), 0, "close one");
    check(event_bind_virq(VIRQ_DEBUG, 0) > 0, "XSA-317: the VIRQ was not left bound by the failure");
    check_equal(event_alloc_unbound(0), -XEN_ENOSPC, "full again");
    check_equal(event_close(last), 0, "close it again");
    check_equal(event_close(last), -XEN_EINVAL, "XSA-338: a port that was valid once");
    check(event_send(last) < 0, "XSA-338: send on it");
    check(event_unmask(last) <= 0 && poll(last) <= 0, "XSA-338: unmask and poll it");
    print("%ld ports\n", opened);
}
