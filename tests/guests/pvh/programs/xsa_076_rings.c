/* XSA-76: hypercalls from rings 1 and 2 of an HVM guest are refused as those from ring 3 are. */
#include "guest.h"

extern const char in_ring[];
asm(".text\nin_ring: mov $17, %eax; xor %edi, %edi; vmcall; mov %rax, %rbx; mov $29, %eax; mov $2, %edi; vmcall; ud2");

PROGRAM(xsa_076_rings)
{
    extern u64 gdt[];

    for (unsigned ring = 1; ring < 4; ring++) {
        struct registers registers;

        gdt[SPARE_SELECTOR / 8] = 0x00af9b000000ffff | (u64)ring << 45;
        gdt[SPARE_SELECTOR / 8 + 1] = 0x00cf93000000ffff | (u64)ring << 45;
        user_prepare(&registers, in_ring);
        registers.cs = SPARE_SELECTOR | ring;
        registers.ss = (SPARE_SELECTOR + 8) | ring;
        user_run(&registers);
        check_equal(registers.vector, VECTOR_UD, "code of another ring came to its end");
        check_equal(registers.cs & 3, ring, "it was in that ring");
        check_equal(registers.bx, -XEN_EPERM, "xen_version");
        check_equal(registers.ax, -XEN_EPERM, "sched_op");
    }
}
