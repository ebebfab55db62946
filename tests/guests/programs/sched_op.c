/* sched_op: yield, block, poll, shutdown_code, and what is refused. */
#include "guest.h"

static long poll_ports(evtchn_port_t *ports, unsigned count, u64 timeout)
{
    struct sched_poll argument = {.nr_ports = count, .timeout = timeout};

    set_xen_guest_handle(argument.ports, ports);
    return hypercall_sched_op(SCHEDOP_poll, &argument);
}

PROGRAM(sched_op)
{
    long a = event_alloc_unbound(DOMID_SELF), b = event_bind_interdomain(DOMID_SELF, a), timer = event_bind_virq(VIRQ_TIMER, 0);
    evtchn_port_t ports[2] = {b, timer}, bad[1] = {1000000};
    struct sched_remote_shutdown remote = {.domain_id = 0, .reason = SHUTDOWN_poweroff};
    struct sched_pin_override pin = {.pcpu = 0};
    u64 before;

    check_equal(hypercall_sched_op(SCHEDOP_yield, NULL), 0, "yield");
    check_equal(hypercall_sched_op(99, NULL), -XEN_ENOSYS, "an unknown command");

    check(event_pending(b), "b is pending");
    before = clock_now();
    check_equal(poll_ports(ports, 2, 0), 0, "poll with a pending port returns at once");
    check(clock_now() - before < SECONDS, "indeed");
    event_clear(b);
    events_forget();
    before = clock_now();
    /* With one port only that one wakes; with more, any of the domain's, a backend's too. */
    check_equal(poll_ports(&ports[0], 1, before + 10 * MILLISECONDS), 0, "poll times out");
    check(clock_now() - before >= 10 * MILLISECONDS, "after its time (%lu us)", (clock_now() - before) / 1000);
    hypercall_set_timer_op(clock_now() + 5 * MILLISECONDS);
    check_equal(poll_ports(&ports[1], 1, clock_now() + 5 * SECONDS), 0, "poll is woken by an event");
    check(event_pending(timer), "the timer's");
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 1, "poll leaves upcalls masked");
    check_equal(event_upcalls, 0, "and brings none");
    event_clear(timer);
    event_mask(timer);
    hypercall_set_timer_op(clock_now() + 5 * MILLISECONDS);
    before = clock_now();
    poll_ports(&ports[1], 1, clock_now() + 5 * SECONDS);
    check(event_pending(timer) && clock_now() - before < 2 * SECONDS, "poll sees masked ports too");
    event_clear(timer);
    event_unmask_locally(timer);
    events_forget();
    check_equal(poll_ports(bad, 1, clock_now() + MILLISECONDS), -XEN_EINVAL, "poll of a port that can't exist");
    check_equal(poll_ports(ports, 129, 0), -XEN_EINVAL, "poll of 129 ports");

    hypercall_set_timer_op(clock_now() + 5 * MILLISECONDS);
    before = clock_now();
    check_equal(hypercall_sched_op(SCHEDOP_block, NULL), 0, "block");
    check(clock_now() - before < 5 * SECONDS && event_counts[timer] == 1, "until the timer's upcall");
    events_disable();
    event_send(a);
    check_equal(hypercall_sched_op(SCHEDOP_block, NULL), 0, "block with an event pending");
    check_equal(event_counts[b], 1, "unmasks, delivers it and goes on");
    events_disable();

    check_equal(hypercall_sched_op(SCHEDOP_remote_shutdown, &remote), -XEN_EPERM, "remote_shutdown of domain 0");
    remote.domain_id = 0x7000;
    check_equal(hypercall_sched_op(SCHEDOP_remote_shutdown, &remote), -XEN_ESRCH, "remote_shutdown of no domain");
    check_equal(hypercall_sched_op(SCHEDOP_pin_override, &pin), -XEN_EPERM, "pin_override");
}
