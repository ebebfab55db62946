/* @modes 64 pae 32
 * @expect crash
 * An exception without an IDT. */
#include "guest.h"

PROGRAM(crash_triple_fault)
{
    load_idt(NULL, 0);
    asm volatile("ud2");
}
