/* Refusals of event_channel_op. */
#include "guest.h"

PROGRAM(event_errors)
{
    struct evtchn_alloc_unbound unbound = {.dom = 0, .remote_dom = DOMID_SELF};
    struct evtchn_bind_pirq pirq = {.pirq = 5};
    struct evtchn_bind_vcpu vcpu;
    long port, foreign, virq, ipi;

    check_equal(hypercall_event_channel_op(99, &unbound), -XEN_ENOSYS, "an unknown command");
    check_equal(hypercall_event_channel_op(EVTCHNOP_alloc_unbound, &unbound), -XEN_EPERM, "alloc_unbound in domain 0");
    unbound.dom = 0x7000;
    check_equal(hypercall_event_channel_op(EVTCHNOP_alloc_unbound, &unbound), -XEN_ESRCH, "alloc_unbound in no domain");
    port = event_alloc_unbound(DOMID_SELF);
    foreign = event_alloc_unbound(0);
    check(port > 0 && foreign > 0, "ports for the tests");
    check_equal(event_bind_interdomain(DOMID_SELF, foreign), -XEN_EINVAL, "bind to a port meant for another domain");
    check_equal(event_bind_interdomain(DOMID_SELF, 0), -XEN_EINVAL, "bind to port 0");
    check_equal(event_bind_interdomain(DOMID_SELF, 1000000), -XEN_EINVAL, "bind to port 1000000");
    check_equal(event_bind_interdomain(0x7000, 1), -XEN_ESRCH, "bind to no domain");
    check_equal(event_bind_virq(NR_VIRQS, 0), -XEN_EINVAL, "VIRQ 24");
    check_equal(event_bind_virq(~0U, 0), -XEN_EINVAL, "VIRQ 2^32-1");
    check_equal(event_bind_virq(VIRQ_TIMER, 77), -XEN_ENOENT, "VIRQ_TIMER on vCPU 77");
    virq = event_bind_virq(VIRQ_TIMER, 0);
    check(virq > 0, "bind VIRQ_TIMER");
    check_equal(event_bind_virq(VIRQ_TIMER, 0), -XEN_EEXIST, "bind VIRQ_TIMER twice");
    check_equal(event_bind_ipi(77), -XEN_ENOENT, "IPI on vCPU 77");
    ipi = event_bind_ipi(0);
    check(ipi > 0, "bind an IPI");
    check_equal(hypercall_event_channel_op(EVTCHNOP_bind_pirq, &pirq), -XEN_EPERM, "bind_pirq without hardware");
    check_equal(event_send(virq), -XEN_EINVAL, "send on a VIRQ port");
    check_equal(event_send(0), -XEN_EINVAL, "send on port 0");
    check_equal(event_send(1000000), -XEN_EINVAL, "send on port 1000000");
    check_equal(event_close(0), -XEN_EINVAL, "close port 0");
    check_equal(event_close(1000000), -XEN_EINVAL, "close port 1000000");
    check_equal(event_unmask(1000000), -XEN_EINVAL, "unmask port 1000000");
    vcpu = (struct evtchn_bind_vcpu){.port = virq, .vcpu = 0};
    check_equal(hypercall_event_channel_op(EVTCHNOP_bind_vcpu, &vcpu), -XEN_EINVAL, "bind_vcpu of a per-vCPU VIRQ");
    vcpu.port = ipi;
    check_equal(hypercall_event_channel_op(EVTCHNOP_bind_vcpu, &vcpu), -XEN_EINVAL, "bind_vcpu of an IPI");
    vcpu.port = port;
    check_equal(hypercall_event_channel_op(EVTCHNOP_bind_vcpu, &vcpu), 0, "bind_vcpu of an unbound port");
    vcpu.vcpu = 77;
    check_equal(hypercall_event_channel_op(EVTCHNOP_bind_vcpu, &vcpu), -XEN_ENOENT, "bind_vcpu to vCPU 77");
    check_equal(event_close(virq), 0, "close the VIRQ port");
    check(event_bind_virq(VIRQ_TIMER, 0) > 0, "VIRQ_TIMER can be bound again");
}
