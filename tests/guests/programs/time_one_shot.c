/* @vcpus 2
 * @timeout 60
 * One-shot timers of two vCPUs that compute: none is early, lost or doubled, however the deadline moves and whether the vCPU sleeps. */
#include "guest.h"

#define VCPUS 2
#define SHOTS 150

static struct {
    volatile u64 count, first; /* of its timer's events: how many, and when the last one came */
    long port, ipi;
    volatile u64 interrupts;
} vcpus[VCPUS] __attribute__((aligned(64)));

static void upcall(struct registers *registers)
{
    unsigned vcpu = smp_take_upcall();

    (void)registers;
    if (event_pending(vcpus[vcpu].port)) {
        event_clear(vcpus[vcpu].port);
        vcpus[vcpu].first = clock_now();
        vcpus[vcpu].count++;
    }
    if (event_pending(vcpus[vcpu].ipi)) {
        event_clear(vcpus[vcpu].ipi);
        vcpus[vcpu].interrupts++;
    }
}

static void arm(unsigned vcpu, u64 deadline)
{
    struct vcpu_set_singleshot_timer shot = {.timeout_abs_ns = deadline};

    if (hypercall_vcpu_op(VCPUOP_set_singleshot_timer, vcpu, &shot))
        check(false, "set_singleshot_timer of vCPU %u", vcpu);
}

/* Compute until the next event, or for `limit`. -> whether it came. */
static bool compute(unsigned vcpu, u64 before, u64 limit)
{
    u64 end = clock_now() + limit;

    while (vcpus[vcpu].count == before && clock_now() < end)
        asm volatile("mov $100, %%ecx\n1: dec %%ecx\n jnz 1b" ::: "ecx", "cc");
    return vcpus[vcpu].count != before;
}

static void expect(unsigned vcpu, u64 before, u64 deadline, const char *what)
{
    if (!compute(vcpu, before, 5 * SECONDS))
        check(false, "%s: vCPU %u gets its event", what, vcpu);
    else if (vcpus[vcpu].first < deadline || vcpus[vcpu].count != before + 1)
        check(false, "%s: vCPU %u: %lu events, %lu ns before the deadline", what, vcpu, vcpus[vcpu].count - before,
              deadline - vcpus[vcpu].first);
}

static void shoot(unsigned vcpu)
{
    volatile struct vcpu_info *info = &shared_info->vcpu_info[vcpu];
    u64 deadline, before;

    smp_barrier(VCPUS);
    info->evtchn_upcall_mask = 0;
    for (unsigned i = 0; i < SHOTS; i++) {
        before = vcpus[vcpu].count;
        info->evtchn_upcall_mask = 1;
        if (i % 3) /* it moves, to earlier or to later */
            arm(vcpu, clock_now() + 20 * MILLISECONDS);
        arm(vcpu, deadline = clock_now() + (i % 3 == 2 ? 22 * MILLISECONDS : 50000 + 7000 * i));
        if (i % 5 == 4) /* in its sleep */
            hypercall_sched_op(SCHEDOP_block, NULL);
        __atomic_store_n(&info->evtchn_upcall_mask, 0, __ATOMIC_SEQ_CST);
        if (info->evtchn_upcall_pending)
            hypercall_sched_op(SCHEDOP_yield, NULL); /* whoever opens the mask itself looks for what came meanwhile */
        if (i % 7 == 6) /* whatever interrupts it meanwhile */
            event_send(vcpus[vcpu].ipi);
        expect(vcpu, before, deadline, "shot");
    }
    before = vcpus[vcpu].count;
    arm(vcpu, clock_now() + 5 * MILLISECONDS);
    check_equal(hypercall_vcpu_op(VCPUOP_stop_singleshot_timer, vcpu, NULL), 0, "stop_singleshot_timer");
    check(!compute(vcpu, before, 20 * MILLISECONDS), "a timer that was stopped does not fire");
    arm(vcpu, 1);
    expect(vcpu, before, 1, "a deadline that has passed");
    info->evtchn_upcall_mask = 1;
}

PROGRAM(time_one_shot)
{
    trap_set_handler(KIND_EVENT, upcall);
    for (unsigned i = 0; i < VCPUS; i++) {
        vcpus[i].port = event_bind_virq(VIRQ_TIMER, i);
        vcpus[i].ipi = event_bind_ipi(i);
        check(vcpus[i].port > 0 && vcpus[i].ipi > 0, "ports of vCPU %u", i);
        event_unmask_locally(vcpus[i].port);
        event_unmask_locally(vcpus[i].ipi);
    }
    check(smp_run(VCPUS, shoot, 40), "every vCPU ends");
    for (unsigned i = 0; i < VCPUS; i++) {
        check_equal(vcpus[i].count, SHOTS + 1, "events of the timer");
        check_equal(vcpus[i].interrupts, SHOTS / 7, "interrupts");
    }
}
