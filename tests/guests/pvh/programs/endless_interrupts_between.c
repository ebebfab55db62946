/* @vcpus 4
 * @expect running
 * Four processors that send each other interrupts, NMIs and start-up interrupts without end. */
#include "guest.h"

static void nothing(struct registers *registers)
{
    if (registers->vector != VECTOR_NMI)
        apic_end_of_interrupt();
}

static volatile unsigned ready;

static void flood(unsigned vcpu)
{
    apic_enable();
    __atomic_fetch_add(&ready, 1, __ATOMIC_SEQ_CST);
    WAIT_FOR(ready == 4);
    interrupts_on();
    for (unsigned i = vcpu;; i++) {
        apic_send(ICR_OTHERS | 0x40, 0);
        apic_send(ICR_ALL | ICR_NMI, 0);
        apic_send(ICR_STARTUP | 0x70, 2 * (i % 4));
        apic_send(ICR_ALL | 0x41 | (i & 7), 0);
    }
}

PROGRAM(endless_interrupts_between)
{
    for (unsigned vector = 0x40; vector < 0x50; vector++)
        trap_set_handler(vector, nothing);
    trap_set_handler(VECTOR_NMI, nothing);
    for (unsigned vcpu = 1; vcpu < 4; vcpu++) {
        smp_start(vcpu, flood);
        smp_arrived(vcpu);
    }
    print("RESULT PASS\n");
    flood(0);
}
