/* @modes 64 pae 32
 * @vcpus 8
 * Eight vCPUs, the odd ones started by INIT and start-up interrupts from real mode on, the even ones by VCPUOP_initialise; interrupts between them: physical,
 * logical (flat, cluster, x2APIC's clusters), lowest priority, broadcast, NMI; and what VCPUOP_* refuse. */
#include "guest.h"

#define VECTOR 0x45
#define VCPUS 8

static volatile unsigned received[VCPUS], nmis[VCPUS], ids[VCPUS];
static volatile bool x2, stop;
static volatile unsigned ready;

static unsigned here(void)
{
    u32 leaf[4];

    cpuid(1, 0, leaf);
    return leaf[1] >> 25;
}

static void interrupt(struct registers *registers)
{
    (void)registers;
    __atomic_fetch_add(&received[here()], 1, __ATOMIC_SEQ_CST);
    apic_end_of_interrupt();
}

static void nmi(struct registers *registers)
{
    (void)registers;
    __atomic_fetch_add(&nmis[here()], 1, __ATOMIC_SEQ_CST);
}

static void worker(unsigned vcpu)
{
    ids[vcpu] = apic_read(APIC_ID) >> 24;
    apic_write(APIC_LDR, 1U << (24 + vcpu));
    apic_enable();
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    interrupts_on();
    while (!x2)
        asm volatile("hlt");
    apic_use_x2();
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    while (!stop)
        asm volatile("hlt");
    interrupts_off();
}

static void forget(void)
{
    for (unsigned i = 0; i < VCPUS; i++)
        received[i] = nmis[i] = 0;
}

/* Whether each vCPU in the mask gets one interrupt, and no other one any. */
static bool reaches(u32 command, u32 destination, unsigned mask)
{
    bool reached = true;
    unsigned counts[VCPUS];

    forget();
    apic_send(command, destination);
    for (unsigned i = 0; i < VCPUS; i++)
        reached = (mask >> i & 1 ? WAIT_FOR(received[i] == 1) : received[i] == 0) && reached;
    memcpy(counts, (void *)received, sizeof(counts));
    if (!reached)
        for (unsigned i = 0; i < VCPUS; i++)
            print("# vCPU %u received %u\n", i, counts[i]);
    return reached;
}

PROGRAM(processors)
{
    static struct vcpu_hvm_context context;
    unsigned got = 0;

    trap_set_handler(VECTOR, interrupt);
    trap_set_handler(VECTOR_NMI, nmi);
    apic_write(APIC_LDR, 1U << 24);
    apic_enable();
    vcpu_context(1, &context);
    check_equal(HYPERCALL(vcpu_op, VCPUOP_is_up, 1), 0, "the second vCPU is not up");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_up, 1), -XEN_EINVAL, "nor can it be before it is initialised");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_initialise, VCPUS, &context), -XEN_ENOENT, "a vCPU that is not there");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_initialise, 0, &context), -XEN_EEXIST, "one that runs");
    context.pad = 1;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_initialise, 1, &context), -XEN_EINVAL, "a context with padding that is not zero");
    context.pad = 0;
    context.mode = 7;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_initialise, 1, &context), -XEN_EINVAL, "a context for no mode that there is");
    for (unsigned vcpu = 1; vcpu < VCPUS; vcpu++) {
        (vcpu % 2 ? smp_start_by_ipi : smp_start)(vcpu, worker);
        check(smp_arrived(vcpu), "vCPU %u runs", vcpu);
        check_equal(HYPERCALL(vcpu_op, VCPUOP_is_up, vcpu), 1, "it is up");
    }
    check(WAIT_FOR(ready == VCPUS - 1), "all have begun their work");
    for (unsigned vcpu = 1; vcpu < VCPUS; vcpu++)
        check_equal(ids[vcpu], 2 * vcpu, "its APIC id");
    interrupts_on();
    check(reaches(VECTOR, 6, 1 << 3), "physical destination");
    check(reaches(VECTOR, 0xff, 0xff), "physical destination 0xff: all");
    check(reaches(ICR_OTHERS | VECTOR, 0, 0xfe), "all others");
    check(reaches(ICR_ALL | VECTOR, 0, 0xff), "all");
    check(reaches(ICR_SELF | VECTOR, 0, 1), "itself");
    check(reaches(ICR_LOGICAL | VECTOR, 0x96, 0x96), "logical destination, flat model");
    check(reaches(ICR_LOGICAL | VECTOR, 0x00, 0), "logical destination of nobody");
    forget();
    apic_send(ICR_LOGICAL | ICR_LOWEST | VECTOR, 0xfe);
    for (unsigned i = 0; i < VCPUS; i++)
        WAIT_FOR(received[1] + received[2] + received[3] + received[4] + received[5] + received[6] + received[7] >= 1);
    for (unsigned i = 0; i < VCPUS; i++)
        got += received[i];
    check_equal(got, 1, "lowest priority: one of them");
    check_equal(received[0], 0, "not the sender, who was not named");
    apic_send(ICR_NMI, 4);
    check(WAIT_FOR(nmis[2] == 1), "an NMI to one");
    apic_send(ICR_NMI | ICR_OTHERS, 0);
    for (unsigned i = 1; i < VCPUS; i++)
        check(WAIT_FOR(nmis[i] == (i == 2 ? 2u : 1u)), "an NMI to all others");
    check_equal(nmis[0], 0, "not to itself");

    ready = 0;
    x2 = true;
    apic_send(ICR_OTHERS | VECTOR, 0);
    check(WAIT_FOR(ready == VCPUS - 1), "all are x2APICs");
    apic_use_x2();
    check(reaches(VECTOR, 10, 1 << 5), "x2APIC: physical destination");
    check(reaches(VECTOR, 0xffffffff, 0xff), "x2APIC: everybody");
    check(reaches(ICR_LOGICAL | VECTOR, 0x5, 0x3), "x2APIC: logical destination: ids 0 and 2 of cluster 0");
    check(reaches(ICR_LOGICAL | VECTOR, 0x4001, 0x81), "x2APIC: ids 0 and 14");
    check(reaches(ICR_LOGICAL | VECTOR, 0x10001, 0), "x2APIC: cluster 1 has nobody");
    check(reaches(ICR_OTHERS | VECTOR, 0, 0xfe), "x2APIC: all others");
    forget();
    stop = true;
    apic_send(ICR_OTHERS | VECTOR, 0);
    for (unsigned vcpu = 1; vcpu < VCPUS; vcpu++) {
        check(smp_finished(vcpu), "vCPU %u ends", vcpu);
        check(WAIT_FOR(HYPERCALL(vcpu_op, VCPUOP_is_up, vcpu) == 0), "it is down");
    }
    check_equal(HYPERCALL(vcpu_op, VCPUOP_up, 2), 0, "up again");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_initialise, 2, &context), -XEN_EEXIST, "it is initialised already");
}
