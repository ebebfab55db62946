/* @vcpus 4
 * @timeout 60
 * vCPUs interrupt each other as fast as they can, from their upcalls too, and sleep in between: no interrupt is lost. */
#include "guest.h"

#define VCPUS 4
#define DEADLINE_S 40

static struct {
    volatile u64 asked, seen; /* what others want of this vCPU, and what it has taken note of */
    volatile u64 upcalls;
    long port;
} vcpus[VCPUS] __attribute__((aligned(64)));

static volatile unsigned senders;
static u64 rounds;

static void interrupt(unsigned vcpu)
{
    __atomic_add_fetch(&vcpus[vcpu].asked, 1, __ATOMIC_SEQ_CST);
    event_send(vcpus[vcpu].port);
}

static void upcall(struct registers *registers)
{
    unsigned vcpu = smp_take_upcall();

    (void)registers;
    event_clear(vcpus[vcpu].port);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    vcpus[vcpu].seen = vcpus[vcpu].asked;
    if (++vcpus[vcpu].upcalls % 8 == 0)
        interrupt((vcpu + 1) % VCPUS);
}

static bool all_seen(void)
{
    for (unsigned i = 0; i < VCPUS; i++)
        if (vcpus[i].seen != vcpus[i].asked)
            return false;
    return true;
}

/* SCHEDOP_block opens the upcalls of its own vCPU. The wait has an end only through an interrupt. */
static void storm(unsigned vcpu)
{
    volatile struct vcpu_info *info = &shared_info->vcpu_info[vcpu];
    u64 random = vcpu + 1;

    smp_barrier(VCPUS);
    for (u64 round = 0; round < rounds; round++) {
        u64 before = vcpus[vcpu].upcalls;

        info->evtchn_upcall_mask = 0;
        interrupt((vcpu + 1 + smp_random(&random) % (VCPUS - 1)) % VCPUS);
        if (round % 16 == 0) {
            info->evtchn_upcall_mask = 1;
            interrupt(vcpu); /* so that there is one to wake up for */
            while (vcpus[vcpu].upcalls == before) {
                hypercall_sched_op(SCHEDOP_block, NULL);
                info->evtchn_upcall_mask = 1;
            }
        }
    }
    info->evtchn_upcall_mask = 0;
    __atomic_sub_fetch(&senders, 1, __ATOMIC_SEQ_CST);
    if (info->evtchn_upcall_pending)
        event_send(vcpus[vcpu].port); /* whoever opens the mask itself looks for what came meanwhile */
    /* Chains of upcalls die out, as only each eighth makes another. */
    for (u64 end = clock_now() + DEADLINE_S * SECONDS; (senders || !all_seen()) && clock_now() < end;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    info->evtchn_upcall_mask = 1;
}

PROGRAM(ipi_storm)
{
    u64 upcalls = 0, asked = 0;

    rounds = smp_scaled(500);
    senders = VCPUS;
    trap_set_handler(KIND_EVENT, upcall);
    for (unsigned i = 0; i < VCPUS; i++) {
        vcpus[i].port = event_bind_ipi(i);
        check(vcpus[i].port > 0, "port of vCPU %u", i);
        event_unmask_locally(vcpus[i].port);
    }
    check(smp_run(VCPUS, storm, 2 * DEADLINE_S), "every vCPU ends");
    for (unsigned i = 0; i < VCPUS; i++) {
        check(vcpus[i].seen == vcpus[i].asked, "vCPU %u saw %lu of %lu interrupts", i, vcpus[i].seen, vcpus[i].asked);
        check(vcpus[i].upcalls >= rounds / 16, "vCPU %u is interrupted", i);
        upcalls += vcpus[i].upcalls;
        asked += vcpus[i].asked;
    }
    print("NOTE %lu interrupts, %lu upcalls\n", asked, upcalls);
}
