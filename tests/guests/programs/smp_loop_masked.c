/* @expect running
 * @vcpus 8
 * Eight vCPUs that spin with events masked: the domain is destroyed at once all the same. */
#include "guest.h"

#define VCPUS 8

static volatile unsigned spinning;

static void spin(unsigned vcpu)
{
    (void)vcpu;
    __atomic_fetch_add(&spinning, 1, __ATOMIC_SEQ_CST);
    for (;;)
        barrier();
}

PROGRAM(smp_loop_masked)
{
    unsigned turns = 0;

    for (unsigned vcpu = 1; vcpu < VCPUS; vcpu++)
        smp_start(vcpu, spin);
    while (spinning < VCPUS - 1)
        smp_relax(&turns);
    check_equal(spinning, VCPUS - 1, "all others spin");
    print("RESULT PASS\n");
    for (;;)
        barrier();
}
