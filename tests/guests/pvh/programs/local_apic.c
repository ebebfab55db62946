/* @modes 64 pae 32
 * The local APIC of one processor, by memory and as x2APIC: registers, interrupts to itself, priorities, errors, what is not there. */
#include "guest.h"

#define LOW 0x41
#define HIGH 0x92

static void to_itself(void)
{
    unsigned low = interrupt_counts[LOW], high = interrupt_counts[HIGH];

    interrupts_on();
    apic_send(ICR_SELF | LOW, 0);
    check_equal(interrupt_counts[LOW], low + 1, "an interrupt to itself by shorthand");
    apic_send(HIGH, 0);
    check_equal(interrupt_counts[HIGH], high + 1, "by its physical id");
    apic_send(ICR_ALL | LOW, 0);
    check_equal(interrupt_counts[LOW], low + 2, "to all");
    apic_send(ICR_OTHERS | LOW, 0);
    check_equal(interrupt_counts[LOW], low + 2, "to all others: there are none");
    apic_send(ICR_LOWEST | LOW, 0);
    check_equal(interrupt_counts[LOW], low + 3, "of lowest priority");
    apic_send(LOW, 6);
    check_equal(interrupt_counts[LOW], low + 3, "to an id that nobody has");
    interrupts_off();
    apic_send(ICR_SELF | LOW, 0);
    apic_send(ICR_SELF | LOW, 0);
    apic_send(ICR_SELF | HIGH, 0);
    check(apic_bit(APIC_IRR, LOW) && apic_bit(APIC_IRR, HIGH), "they wait in the IRR");
    check(!apic_bit(APIC_ISR, LOW), "and are not in service");
    interrupts_on();
    check_equal(interrupt_counts[LOW], low + 4, "two of one vector are one");
    check_equal(interrupt_counts[HIGH], high + 2, "the other one came, too");
    interrupts_off();
    apic_write(APIC_TPR, 0x50);
    check_equal(apic_read(APIC_PPR), 0x50, "the processor's priority is the task's");
    apic_send(ICR_SELF | LOW, 0);
    apic_send(ICR_SELF | HIGH, 0);
    interrupts_on();
    check_equal(interrupt_counts[LOW], low + 4, "below the task's priority: held back");
    check_equal(interrupt_counts[HIGH], high + 3, "above it: delivered");
    apic_write(APIC_TPR, 0);
    asm volatile("nop");
    check_equal(interrupt_counts[LOW], low + 5, "delivered when the priority is low again");
    interrupts_off();
    apic_write(APIC_ESR, 0);
    apic_send(ICR_SELF | 5, 0);
    apic_write(APIC_ESR, 0);
    check(apic_read(APIC_ESR) & 0x60, "a vector below 16 is an error (ESR 0x%x)", apic_read(APIC_ESR));
}

static volatile bool nested;

static void service(struct registers *registers)
{
    (void)registers;
    nested = apic_bit(APIC_ISR, HIGH) && apic_read(APIC_PPR) == (HIGH & 0xf0);
    apic_send(ICR_SELF | LOW, 0);
    interrupts_on();
    nested = nested && apic_bit(APIC_IRR, LOW);
    interrupts_off();
    apic_end_of_interrupt();
}

PROGRAM(local_apic)
{
    static const u16 read_only[] = {APIC_ID, APIC_VERSION, APIC_PPR, APIC_LDR, APIC_ISR, APIC_IRR, APIC_TIMER_CURRENT};
    unsigned low;
    u32 version;

    interrupt_expect(LOW);
    interrupt_expect(HIGH);
    check_equal(apic_read(APIC_ID) >> 24, 0, "APIC id of the first processor");
    version = apic_read(APIC_VERSION);
    check_equal(version & 0xff, 0x14, "version");
    check(version >> 16 >= 5, "local vectors");
    check_equal(apic_read(APIC_SVR), 0xff, "off by software at the start");
    check_equal(apic_read(APIC_LVT_TIMER), APIC_MASKED, "its timer is masked");
    check_equal(apic_read(APIC_DFR), 0xffffffff, "flat model at the start");
    interrupts_on();
    apic_send(ICR_SELF | LOW, 0);
    check_equal(interrupt_counts[LOW], 0, "no interrupts while it is off");
    interrupts_off();
    apic_enable();
    apic_write(APIC_LVT_LINT0, 0x700 | 0x31);
    check_equal(apic_read(APIC_LVT_LINT0), 0x700 | 0x31, "a local vector as written");
    apic_write(APIC_ID, 0);
    apic_write(APIC_VERSION, 0);
    check_equal(apic_read(APIC_VERSION), version, "the version can't be written");
    to_itself();
    trap_set_handler(HIGH, service);
    low = interrupt_counts[LOW];
    interrupts_on();
    apic_send(ICR_SELF | HIGH, 0);
    interrupts_off();
    check(nested, "in service it shows in the ISR and keeps lower ones back");
    interrupts_on();
    interrupts_off();
    check_equal(interrupt_counts[LOW], low + 1, "which come after its end");
    interrupt_expect(HIGH);

    apic_use_x2();
    check(apic_is_x2(), "it is an x2APIC now");
    check_equal(*(volatile u32 *)(APIC_ADDRESS + APIC_VERSION), 0xffffffff, "its registers are no memory any more");
    check_equal(apic_read(APIC_ID), 0, "id");
    check_equal(apic_read(APIC_LDR), 1, "logical id: bit 0 of cluster 0");
    check_equal(apic_read(APIC_VERSION), version, "the same version");
    check_equal(apic_read(APIC_LVT_LINT0), 0x700 | 0x31, "the same local vectors");
    to_itself();
    interrupts_on();
    low = interrupt_counts[LOW];
    apic_write(APIC_SELF_IPI, LOW);
    check_equal(interrupt_counts[LOW], low + 1, "the register for interrupts to itself");
    apic_send(ICR_LOGICAL | LOW, 1);
    check_equal(interrupt_counts[LOW], low + 2, "by its logical id");
    apic_send(ICR_LOGICAL | LOW, 0x10001);
    check_equal(interrupt_counts[LOW], low + 2, "by a logical id of another cluster");
    apic_send(LOW, 0xffffffff);
    check_equal(interrupt_counts[LOW], low + 3, "to everybody");
    interrupts_off();
    for (unsigned i = 0; i < ARRAY_SIZE(read_only); i++)
        check_equal(TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_X2APIC + read_only[i] / 16), "a"(0), "d"(0)).kind, VECTOR_GP, "write of what can only be read");
    check_equal(TRAP_OF(MAY_FAULT("rdmsr")::"c"(MSR_X2APIC + APIC_EOI / 16) : "eax", "edx").kind, VECTOR_GP, "read of EOI");
    check_equal(TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_X2APIC + APIC_EOI / 16), "a"(1), "d"(0)).kind, VECTOR_GP, "write of 1 to EOI");
    check_equal(TRAP_OF(MAY_FAULT("rdmsr")::"c"(MSR_X2APIC + APIC_DFR / 16) : "eax", "edx").kind, VECTOR_GP, "DFR, which an x2APIC has not");
    check_equal(TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_X2APIC + APIC_TPR / 16), "a"(0x100), "d"(0)).kind, VECTOR_GP, "a reserved bit of TPR");
    check_equal(TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_X2APIC + APIC_ICR / 16), "a"(0x42041), "d"(0)).kind, VECTOR_GP, "a reserved bit of ICR");
    check_equal(TRAP_OF(MAY_FAULT("rdmsr")::"c"(0x8ff) : "eax", "edx").kind, VECTOR_GP, "a register that is not there");
    check_equal(TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_APIC_BASE), "a"(APIC_ADDRESS | APIC_ENABLED | 0x100), "d"(0)).kind, VECTOR_GP,
                "back from x2APIC without switching it off");
    wrmsr(MSR_APIC_BASE, APIC_ADDRESS | 0x100);
    wrmsr(MSR_APIC_BASE, APIC_ADDRESS | APIC_ENABLED | 0x100);
    check_equal(apic_read(APIC_SVR), 0xff, "off and on again, it is as at the start");
}
