/* @modes 64 pae 32
 * @expect crash
 * HLT with interrupts off, and nobody who could end it. */
#include "guest.h"

PROGRAM(crash_halt)
{
    asm volatile("cli; hlt");
}
