/* @modes 64 32
 * @expect running
 * Interrupts to itself without end, each sent by the handler of the one before. */
#include "guest.h"

static void again(struct registers *registers)
{
    apic_end_of_interrupt();
    apic_send(ICR_SELF | registers->vector, 0);
}

PROGRAM(endless_interrupts)
{
    trap_set_handler(0x40, again);
    apic_enable();
    print("RESULT PASS\n");
    apic_send(ICR_SELF | 0x40, 0);
    for (;;)
        interrupts_on();
}
