/* @bench
 * @vcpus 2
 * @timeout 60
 * Two vCPUs that wake each other and sleep, on one physical CPU: each round trip is two switches from one vCPU to the other, with the event
 * that causes it. */
#include "guest.h"

#include "bench.h"

#define ROUNDS 1000

static volatile bool stop;
static long port[2];

static void await_ring(unsigned vcpu)
{
    evtchn_port_t mine[1] = {port[vcpu]};
    struct sched_poll poll = {.nr_ports = 1};

    set_xen_guest_handle(poll.ports, mine);
    while (!event_pending(port[vcpu]))
        hypercall_sched_op(SCHEDOP_poll, &poll);
    event_clear(port[vcpu]);
    __atomic_exchange_n(&shared_info->vcpu_info[vcpu].evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    shared_info->vcpu_info[vcpu].evtchn_upcall_pending = 0;
}

static void reply(unsigned vcpu)
{
    do {
        await_ring(vcpu);
        event_send(port[0]);
    } while (!stop);
}

static void round_trip(void)
{
    event_send(port[1]);
    await_ring(0);
}

PROGRAM(vcpu_switch)
{
    for (unsigned vcpu = 0; vcpu < 2; vcpu++) {
        port[vcpu] = event_bind_ipi(vcpu);
        check(port[vcpu] > 0, "bind an IPI");
        event_unmask_locally(port[vcpu]);
    }
    smp_start(1, reply);
    for (unsigned i = 0; i < 20; i++)
        round_trip();
    BENCH_UNITS("vcpu_switch", ROUNDS, 2, round_trip());
    stop = true;
    event_send(port[1]);
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
}
