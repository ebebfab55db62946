/* @modes 64 pae 32
 * Interrupts at the border of an instruction: the shadows of sti and of loads of SS, popf, HLT with an interrupt that waits, NMIs. */
#include "guest.h"

#define VECTOR 0x44

static volatile unsigned nmis;

static void nmi(struct registers *registers)
{
    nmis++;
    if (nmis == 1)
        apic_send(ICR_SELF | ICR_NMI, 0); /* which has to wait for the iret of this one */
    (void)registers;
}

PROGRAM(interrupt_shadows)
{
    unsigned ss = KERNEL_DS;

    interrupt_expect(VECTOR);
    trap_set_handler(VECTOR_NMI, nmi);
    apic_enable();
    apic_send(ICR_SELF | VECTOR, 0);
    check_equal(interrupt_counts[VECTOR], 0, "interrupts are off");
    asm volatile("sti; cli");
    check_equal(interrupt_counts[VECTOR], 0, "sti; cli: the shadow of sti");
    asm volatile("sti; mov %0, %%ss; nop; cli" ::"r"(ss));
    check_equal(interrupt_counts[VECTOR], 1, "sti; nop: delivered");
    apic_send(ICR_SELF | VECTOR, 0);
    asm volatile("push %0; popf; nop; cli" ::"r"((unsigned long)X86_EFLAGS_MBS | X86_EFLAGS_IF) : "cc");
    check_equal(interrupt_counts[VECTOR], 2, "popf turns them on");
    apic_send(ICR_SELF | VECTOR, 0);
    asm volatile("sti; hlt; cli");
    check_equal(interrupt_counts[VECTOR], 3, "sti; hlt with one that waits goes on");
    check_equal(nmis, 0, "no NMI so far");
    apic_send(ICR_SELF | ICR_NMI, 0);
    check_equal(nmis, 2, "an NMI with interrupts off, and the second one after it");
    interrupts_on();
    for (unsigned i = 0; i < 1000; i++)
        apic_send(ICR_SELF | VECTOR, 0);
    check_equal(interrupt_counts[VECTOR], 1003, "a thousand interrupts to itself, each at once");
}
