/* @modes 64
 * Reserved bits of control and debug registers, and combinations that there are not: #GP. */
#include "guest.h"

static struct trap_record set_cr0(unsigned long value)
{
    return TRAP_OF(MAY_FAULT("mov %0, %%cr0")::"r"(value) : "memory");
}

static struct trap_record set_cr4(unsigned long value)
{
    return TRAP_OF(MAY_FAULT("mov %0, %%cr4")::"r"(value) : "memory");
}

PROGRAM(reserved_bits)
{
    unsigned long cr0 = read_cr0(), cr4 = read_cr4();

    check_trap(set_cr0(cr0 | 1UL << 32), VECTOR_GP, 0, "CR0 above bit 31");
    check_trap(set_cr0(cr0 & ~CR0_PE), VECTOR_GP, 0, "CR0.PG without PE");
    check_trap(set_cr0((cr0 & ~CR0_CD) | CR0_NW), VECTOR_GP, 0, "CR0.NW without CD");
    check_trap(set_cr4(cr4 & ~CR4_PAE), VECTOR_GP, 0, "CR4.PAE off in long mode");
    check_trap(set_cr4(cr4 | 1UL << 31), VECTOR_GP, 0, "a reserved bit of CR4");
    check_trap(set_cr4(cr4 | 1UL << 40), VECTOR_GP, 0, "CR4 above bit 31");
    check_trap(set_cr4(cr4 | CR4_VMXE), VECTOR_GP, 0, "CR4.VMXE, which CPUID does not show");
    check_trap(set_cr4(cr4 | CR4_OSXSAVE), VECTOR_GP, 0, "CR4.OSXSAVE, which CPUID does not show");
    check_trap(TRAP_OF(MAY_FAULT("mov %0, %%cr3")::"r"(read_cr3() | 1UL << 60) : "memory"), VECTOR_GP, 0, "CR3 beyond the processor's addresses");
    check_trap(TRAP_OF(MAY_FAULT("mov %0, %%cr8")::"r"(0x10UL)), VECTOR_GP, 0, "CR8 above 15");
    check_trap(TRAP_OF(MAY_FAULT("mov %0, %%dr7")::"r"(1UL << 32)), VECTOR_GP, 0, "DR7 above bit 31");
    check_trap(TRAP_OF(MAY_FAULT("mov %0, %%dr6")::"r"(1UL << 32)), VECTOR_GP, 0, "DR6 above bit 31");
}
