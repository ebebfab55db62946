/* CPUID: Xen's leaves through the emulate prefix, the policy for a PV domain, and the plain instruction. */
#include "guest.h"

#include <xen/arch-x86/cpuid.h>

struct leaf {
    u32 a, b, c, d;
};

static struct leaf xen_cpuid(u32 leaf, u32 subleaf)
{
    struct leaf result;

    asm volatile(XEN_EMULATE_PREFIX "cpuid" : "=a"(result.a), "=b"(result.b), "=c"(result.c), "=d"(result.d) : "0"(leaf), "2"(subleaf));
    return result;
}

static struct leaf plain_cpuid(u32 leaf, u32 subleaf)
{
    struct leaf result;

    asm volatile("cpuid" : "=a"(result.a), "=b"(result.b), "=c"(result.c), "=d"(result.d) : "0"(leaf), "2"(subleaf));
    return result;
}

USER_CODE(user_cpuid, ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e\n cpuid\n mov %ecx, %esi\n syscall");
USER_CODE(bad_prefix, ".byte 0x0f, 0x0b, 0x78, 0x65, 0x6e\n nop\n syscall");

PROGRAM(cpuid)
{
    struct leaf leaf = xen_cpuid(XEN_CPUID_LEAF(0), 0);
    struct registers registers = user_registers();
    struct trap_record trap;

    check_equal(leaf.b, XEN_CPUID_SIGNATURE_EBX, "signature EBX");
    check_equal(leaf.c, XEN_CPUID_SIGNATURE_ECX, "signature ECX");
    check_equal(leaf.d, XEN_CPUID_SIGNATURE_EDX, "signature EDX");
    check_equal(leaf.a, XEN_CPUID_LEAF(XEN_CPUID_MAX_NUM_LEAVES), "the largest leaf");
    leaf = xen_cpuid(XEN_CPUID_LEAF(1), 0);
    check_equal(leaf.a, 4 << 16 | 17, "version 4.17");
    check_equal(leaf.b | leaf.c | leaf.d, 0, "the rest of leaf 1 is zero");
    leaf = xen_cpuid(XEN_CPUID_LEAF(2), 0);
    check_equal(leaf.a, 1, "one hypercall page");
    check_equal(leaf.b, 0x40000000, "MSR base");
    check(leaf.c & XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD, "MMU_PT_UPDATE_PRESERVE_AD");
    check_equal(leaf.d, 0, "features 2");
    leaf = xen_cpuid(XEN_CPUID_LEAF(3), 0);
    check(leaf.c > 100000, "guest TSC frequency %u kHz", leaf.c);
    check_equal(leaf.b, 0, "tsc_mode default");
    leaf = xen_cpuid(XEN_CPUID_LEAF(3), 1);
    check(leaf.c, "multiplier");
    leaf = xen_cpuid(XEN_CPUID_LEAF(4), 0);
    check_equal(leaf.a | leaf.b | leaf.c | leaf.d, 0, "leaf 4 is for HVM");
    leaf = xen_cpuid(XEN_CPUID_LEAF(5), 0);
    check(leaf.b <= 52 && (u64)hypercall_memory_op(XENMEM_maximum_ram_page, NULL) >> (leaf.b - 12) == 0, "machine addresses have %u bits", leaf.b);

    leaf = xen_cpuid(1, 0);
    check(leaf.c & (1U << 31), "the hypervisor bit");
    check(!(leaf.c & (1U << 5)), "no VMX");
    check(leaf.d & (1U << 6), "PAE");
    check(leaf.d & (1U << 24), "FXSR");
    check(leaf.d & (1U << 26), "SSE2");
    check(!(leaf.d & (1U << 3)), "no PSE for PV");
    check(!(leaf.d & (1U << 13)), "no PGE for PV");
    check(!(leaf.d & (1U << 1)), "no VME for PV");
    leaf = xen_cpuid(0x80000001, 0);
    check(leaf.d & (1U << 11), "SYSCALL");
    check(leaf.d & (1U << 20), "NX");
    check(leaf.d & (1U << 29), "LM");
    check(!(leaf.c & (1U << 2)), "no SVM");
    check(xen_cpuid(0x80000000, 0).a >= 0x80000008, "leaf 0x80000008 is there");

    struct leaf plain = plain_cpuid(0, 0), emulated = xen_cpuid(0, 0);

    check(plain.b == emulated.b && plain.c == emulated.c && plain.d == emulated.d, "the same vendor by the plain instruction");
    check((plain_cpuid(0x80000001, 0).d & 0x20100800) == 0x20100800, "and SYSCALL, NX, LM");

    user_init();
    registers.rax = XEN_CPUID_LEAF(0);
    trap = user_run(user_cpuid, user_cpuid_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "user space may use the prefix");
    check_equal(trap.registers.rbx, XEN_CPUID_SIGNATURE_EBX, "and finds Xen");
    trap = user_run_code(bad_prefix);
    check_trap(trap, VECTOR_UD, 0, "the prefix before another instruction is #UD");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS, "at the prefix");
}
