/* CPUID faulting: by MSR_INTEL_MISC_FEATURES_ENABLES a guest kernel makes CPUID #GP(0) for its user space, and for that only. */
#include "guest.h"

#define MISC_FEATURES_ENABLES 0x140
#define PLATFORM_INFO 0xce

USER_CODE(plain, "xor %eax, %eax\n xor %ecx, %ecx\n cpuid\n syscall");
USER_CODE(forced, "xor %eax, %eax\n xor %ecx, %ecx\n" XEN_EMULATE_PREFIX "cpuid\n syscall");

static void enable(u32 value)
{
    asm volatile("wrmsr" ::"c"(MISC_FEATURES_ENABLES), "a"(value), "d"(0) : "memory");
}

PROGRAM(cpuid_faulting)
{
    u32 low, high, eax, ebx, ecx, edx;
    struct trap_record trap;

    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(PLATFORM_INFO));
    check(low >> 31, "PLATFORM_INFO says that it is there");
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MISC_FEATURES_ENABLES));
    check_equal(low | high, 0, "it is off at the start");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MISC_FEATURES_ENABLES), "a"(2), "d"(0) : "memory");
    check_trap(trap, VECTOR_GP, 0, "another bit of the MSR");
    user_init();
    trap = user_run_code(plain);
    check_equal(trap.kind, KIND_SYSCALL, "off: user CPUID");
    enable(1);
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(MISC_FEATURES_ENABLES));
    check_equal(low, 1, "it reads back");
    trap = user_run_code(plain);
    check_trap(trap, VECTOR_GP, 0, "on: user CPUID");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 4, "RIP at it");
    trap = user_run_code(forced);
    check_trap(trap, VECTOR_GP, 0, "with Xen's prefix");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 9, "RIP behind the prefix");
    asm volatile("cpuid" : "=a"(eax), "=b"(ebx), "=c"(ecx), "=d"(edx) : "0"(0), "2"(0));
    check(eax >= 1, "the kernel's CPUID");
    enable(0);
    trap = user_run_code(plain);
    check_equal(trap.kind, KIND_SYSCALL, "off again");
}
