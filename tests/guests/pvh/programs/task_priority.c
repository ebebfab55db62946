/* @modes 64
 * CR8 and the local APIC's task priority register are one. */
#include "guest.h"

#define VECTOR 0x61

PROGRAM(task_priority)
{
    unsigned long value;

    interrupt_expect(VECTOR);
    apic_enable();
    asm volatile("mov %0, %%cr8" ::"r"(7UL));
    asm volatile("mov %%cr8, %0" : "=r"(value));
    check_equal(value, 7, "CR8 as written");
    check_equal(apic_read(APIC_TPR), 0x70, "it is the local APIC's task priority");
    apic_write(APIC_TPR, 0x35);
    asm volatile("mov %%cr8, %0" : "=r"(value));
    check_equal(value, 3, "and the other way round");
    interrupts_on();
    asm volatile("mov %0, %%cr8" ::"r"(6UL));
    apic_send(ICR_SELF | VECTOR, 0);
    check_equal(interrupt_counts[VECTOR], 0, "CR8 keeps interrupts of its class back");
    asm volatile("mov %0, %%cr8" ::"r"(5UL));
    asm volatile("nop");
    check_equal(interrupt_counts[VECTOR], 1, "they come when it is lower");
    asm volatile("mov %0, %%cr8" ::"r"(0UL));
}
