/* @vcpus 2
 * @bench
 * @timeout 60
 * What vCPUs cost each other: an interrupt to one that runs, a round trip between two that sleep, a flush of all TLBs while both run. */
#include "guest.h"

#define MEASURED_NS (200 * MILLISECONDS)

static volatile u64 stop, rung, sent_at, latency_sum, latency_count;
static volatile unsigned turn;
static long port[2];

static void bench_report(const char *name, u64 nanoseconds, u64 count)
{
    print("BENCH %s %lu ns\n", name, count ? nanoseconds / count : 0);
}

static void upcall(struct registers *registers)
{
    volatile struct vcpu_info *info = &shared_info->vcpu_info[1];

    (void)registers;
    latency_sum += clock_read(&info->time) - sent_at;
    latency_count++;
    info->evtchn_upcall_pending = 0;
    __atomic_exchange_n(&info->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    event_clear(port[1]);
    rung++;
}

/* vCPU 1 computes, and takes interrupts; but none that was sent to it before, when it had nothing to do with it any more. */
static void compute(unsigned vcpu)
{
    event_clear(port[vcpu]);
    __atomic_exchange_n(&shared_info->vcpu_info[vcpu].evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    shared_info->vcpu_info[vcpu].evtchn_upcall_pending = 0;
    shared_info->vcpu_info[vcpu].evtchn_upcall_mask = 0;
    turn = 1;
    while (!stop)
        barrier();
    shared_info->vcpu_info[vcpu].evtchn_upcall_mask = 1;
}

static void measure_interrupts(void)
{
    u64 end, begin = clock_now();
    unsigned turns = 0;

    stop = turn = rung = 0;
    trap_set_handler(KIND_EVENT, upcall);
    smp_start(1, compute);
    while (!turn)
        smp_relax(&turns);
    for (begin = clock_now(), end = begin + MEASURED_NS; clock_now() < end;) {
        u64 before = rung;

        sent_at = clock_now();
        event_send(port[1]);
        while (rung == before)
            barrier();
    }
    stop = 1;
    bench_report("interrupt_running_vcpu", latency_sum, latency_count);
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
    trap_set_handler(KIND_EVENT, NULL);
}

/* Sleep until one's own port is rung. */
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

static void measure_round_trips(void)
{
    u64 begin, count = 0;

    stop = 0;
    smp_start(1, reply);
    for (begin = clock_now(); clock_now() < begin + MEASURED_NS; count++) {
        event_send(port[1]);
        await_ring(0);
    }
    bench_report("event_round_trip_sleeping", clock_now() - begin, count);
    stop = 1;
    event_send(port[1]);
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
}

static void measure_flushes(void)
{
    u64 begin, count = 0;
    unsigned turns = 0;

    stop = turn = 0;
    smp_start(1, compute);
    while (!turn)
        smp_relax(&turns);
    for (begin = clock_now(); clock_now() < begin + MEASURED_NS; count++)
        mmuext(MMUEXT_TLB_FLUSH_ALL, 0, 0);
    bench_report("flush_all_tlbs", clock_now() - begin, count);
    stop = 1;
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
}

PROGRAM(bench_smp)
{
    port[0] = event_bind_ipi(0);
    port[1] = event_bind_ipi(1);
    event_unmask_locally(port[0]);
    event_unmask_locally(port[1]);
    measure_interrupts();
    measure_round_trips();
    measure_flushes();
    check(latency_count > 0, "interrupts arrived");
}
