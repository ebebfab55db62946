/* XSA-190: CR0.TS and EM hold for FPU instructions whatever their operand. XSA-191: a null LDT is unusable. XSA-203, XSA-278: VMFUNC and the other instructions of
 * virtualisation are undefined. XSA-168, XSA-170: addresses that are not canonical. XSA-308, XSA-260: debug exceptions in the shadows of STI and MOV SS. */
#include "guest.h"

static unsigned debug_traps;
static unsigned long debug_ip;

static void debug(struct registers *registers)
{
    debug_traps++;
    debug_ip = registers->ip;
    registers->flags &= ~X86_EFLAGS_TF;
}

PROGRAM(xsa_190_what_is_not_there)
{
    static u8 area[512] __attribute__((aligned(16)));
    unsigned long cr0 = read_cr0(), ss = KERNEL_DS;
    extern char after_icebp[];

    write_cr0(cr0 | CR0_TS);
    check_trap(TRAP_OF(MAY_FAULT("fildl (%0)")::"r"(area)), VECTOR_NM, 0, "FILD of memory with CR0.TS");
    check_trap(TRAP_OF(MAY_FAULT("fildl (%0)")::"r"(FREE_HOLE)), VECTOR_NM, 0, "FILD of a hole with CR0.TS");
    check_trap(TRAP_OF(MAY_FAULT("movups (%0), %%xmm0")::"r"(area)), VECTOR_NM, 0, "MOVUPS with CR0.TS");
    write_cr0(cr0 | CR0_EM);
    check_trap(TRAP_OF(MAY_FAULT("fildl (%0)")::"r"(area)), VECTOR_NM, 0, "FILD with CR0.EM");
    check_trap(TRAP_OF(MAY_FAULT("movups (%0), %%xmm0")::"r"(area)), VECTOR_UD, 0, "MOVUPS with CR0.EM");
    write_cr0(cr0);
    asm volatile("lldt %w0" ::"r"(0));
    check_trap(TRAP_OF(MAY_FAULT("mov %w0, %%es")::"r"(0x4)), VECTOR_GP, 4, "a selector of a null LDT");
    check_trap(TRAP_OF(MAY_FAULT(".byte 0x0f, 0x01, 0xd4")), VECTOR_UD, 0, "VMFUNC");
    check_trap(TRAP_OF(MAY_FAULT("vmxoff")), VECTOR_UD, 0, "VMXOFF");
    check_trap(TRAP_OF(MAY_FAULT("vmread %%rax, %%rbx")::: "rbx"), VECTOR_UD, 0, "VMREAD");
    check_trap(TRAP_OF(MAY_FAULT("vmlaunch")), VECTOR_UD, 0, "VMLAUNCH");
    check_trap(TRAP_OF(MAY_FAULT("vmrun")::"a"(0)), VECTOR_UD, 0, "VMRUN");
    check_trap(TRAP_OF(MAY_FAULT("invlpga")::"a"(0), "c"(0)), VECTOR_UD, 0, "INVLPGA");
    check_trap(TRAP_OF(MAY_FAULT("clgi")), VECTOR_UD, 0, "CLGI");
    check_trap(TRAP_OF(MAY_FAULT("skinit")::"a"(0)), VECTOR_UD, 0, "SKINIT");
    check_trap(TRAP_OF(MAY_FAULT("monitor")::"a"(0), "c"(0), "d"(0)), VECTOR_UD, 0, "MONITOR, which CPUID does not show");
    check_trap(TRAP_OF(MAY_FAULT("invlpg (%0)")::"r"(NON_CANONICAL) : "memory"), KIND_NONE, 0, "INVLPG of an address that is not canonical");
    check_trap(trap_of_call((void (*)(void))NON_CANONICAL), VECTOR_GP, 0, "a jump to one");
    trap_set_handler(VECTOR_DB, debug);
    asm volatile("mov %0, %%ss; .byte 0xf1; after_icebp: nop" ::"r"(ss));
    check_equal(debug_traps, 1, "ICEBP after MOV SS");
    check_equal(debug_ip, (unsigned long)after_icebp, "is taken behind it");
    asm volatile("sti; .byte 0xf1; cli");
    check_equal(debug_traps, 2, "ICEBP after STI");
    asm volatile("pushf; orq $0x100, (%%rsp); popf; mov %0, %%ss; nop; nop" ::"r"(ss) : "cc");
    check(debug_traps >= 3, "single step over MOV SS");
}
