/* @expect any
 * XSA-112: string instructions that run over the local APIC's page, from the page before it to the page after it. XSA-123: with a segment prefix. XSA-195: bit
 * operations with offsets far outside. A guest that does so may be crashed, and nothing else happens. */
#include "guest.h"

PROGRAM(xsa_112_apic_strings)
{
    static u8 buffer[3 * PAGE_SIZE];
    unsigned long count = 16, to = APIC_ADDRESS + PAGE_SIZE - 32, from;

    asm volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(0) : "memory");
    print("# stos is done, up to 0x%lx\n", to);
    asm volatile("fs movl $0, (%0); gs movl (%0), %%eax" ::"r"(APIC_ADDRESS + APIC_TPR) : "rax", "memory");
    print("# prefixes are done\n");
    asm volatile("btsq %0, (%1)" ::"r"(-(1L << 33)), "r"(APIC_ADDRESS) : "memory", "cc");
    to = (unsigned long)buffer;
    from = APIC_ADDRESS - PAGE_SIZE;
    count = sizeof(buffer);
    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count)::"memory");
    print("# movs is done\n");
}
