/* @modes 64
 * Control and debug registers: what may be set and what reads back. */
#include "guest.h"

static struct trap_record set_cr0(unsigned long value)
{
    return TRAP_OF(MAY_FAULT("mov %0, %%cr0")::"r"(value) : "memory");
}

static struct trap_record set_cr4(unsigned long value)
{
    return TRAP_OF(MAY_FAULT("mov %0, %%cr4")::"r"(value) : "memory");
}

PROGRAM(control_registers)
{
    unsigned long cr0 = read_cr0(), cr4 = read_cr4(), value;

    check_trap(set_cr0(cr0 | CR0_CD), KIND_NONE, 0, "caches off");
    check_equal(read_cr0(), cr0 | CR0_CD, "CR0 as written");
    check_trap(set_cr0(cr0), KIND_NONE, 0, "caches on");
    check_trap(set_cr0(cr0 & ~0x10UL), KIND_NONE, 0, "CR0 without ET");
    check_equal(read_cr0() & 0x10, 0x10, "ET is always set");
    check_trap(set_cr4(cr4 | CR4_PGE | CR4_DE), KIND_NONE, 0, "CR4.PGE and DE");
    check_equal(read_cr4(), cr4 | CR4_PGE | CR4_DE, "CR4 as written");
    write_cr4(cr4);
    asm volatile("mov %0, %%dr0" ::"r"(0x1234567890UL));
    asm volatile("mov %%dr0, %0" : "=r"(value));
    check_equal(value, 0x1234567890UL, "DR0 as written");
    asm volatile("mov %%dr6, %0" : "=r"(value));
    check_equal(value, 0xffff0ff0, "DR6 at the start");
    asm volatile("mov %%dr7, %0" : "=r"(value));
    check_equal(value, 0x400, "DR7 at the start");
    write_cr4(cr4 | CR4_DE);
    check_trap(TRAP_OF(MAY_FAULT("mov %%dr4, %%rax")::: "rax"), VECTOR_UD, 0, "DR4 with CR4.DE");
    write_cr4(cr4);
    check_trap(TRAP_OF(MAY_FAULT("xsetbv")::"a"(3), "c"(0), "d"(0)), VECTOR_UD, 0, "xsetbv without OSXSAVE");
    check_trap(TRAP_OF(MAY_FAULT("vmxoff")), VECTOR_UD, 0, "an instruction of VMX");
    check_trap(TRAP_OF(MAY_FAULT("invlpg (%0)")::"r"(0UL)), KIND_NONE, 0, "invlpg");
    check_trap(TRAP_OF(MAY_FAULT("wbinvd")), KIND_NONE, 0, "wbinvd");
}
