/* HYPERVISOR_set_segment_base: FS, kernel GS, user GS; and the same through MSRs. */
#include "guest.h"

USER_CODE(read_bases, "movq %fs:0, %rax\n movq %gs:0, %rbx\n mov %gs, %ecx\n mov %ecx, %edi\n syscall");

#define MSR_FS_BASE 0xc0000100
#define MSR_GS_BASE 0xc0000101
#define MSR_KERNEL_GS_BASE 0xc0000102

static u64 read_fs(void)
{
    u64 value;

    asm volatile("movq %%fs:0, %0" : "=r"(value));
    return value;
}

static u64 read_gs(void)
{
    u64 value;

    asm volatile("movq %%gs:0, %0" : "=r"(value));
    return value;
}

static u64 rdmsr(u32 index)
{
    u32 low, high;

    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}

PROGRAM(segment_bases)
{
    static u64 a = 0xaaaa, b = 0xbbbb;
    struct trap_record trap;

    check_equal(hypercall_set_segment_base(SEGBASE_FS, (u64)&a), 0, "SEGBASE_FS");
    check_equal(read_fs(), 0xaaaa, "FS reads through it");
    check_equal(hypercall_set_segment_base(SEGBASE_GS_KERNEL, (u64)&b), 0, "SEGBASE_GS_KERNEL");
    check_equal(read_gs(), 0xbbbb, "GS reads through it");
    check_equal(read_fs(), 0xaaaa, "FS is unchanged");
    check_equal(hypercall_set_segment_base(SEGBASE_GS_USER, USER_DATA_ADDRESS), 0, "SEGBASE_GS_USER");
    check_equal(read_gs(), 0xbbbb, "does not change the kernel's GS");
    check_equal(rdmsr(MSR_FS_BASE), (u64)&a, "MSR_FS_BASE");
    check_equal(rdmsr(MSR_GS_BASE), (u64)&b, "MSR_GS_BASE");
    check_equal(rdmsr(MSR_KERNEL_GS_BASE), USER_DATA_ADDRESS, "MSR_SHADOW_GS_BASE");

    check_equal(hypercall_set_segment_base(SEGBASE_FS, NON_CANONICAL), -XEN_EINVAL, "a non-canonical FS base");
    check_equal(hypercall_set_segment_base(SEGBASE_GS_KERNEL, NON_CANONICAL), -XEN_EINVAL, "a non-canonical kernel GS base");
    check_equal(hypercall_set_segment_base(SEGBASE_GS_USER, NON_CANONICAL), -XEN_EINVAL, "a non-canonical user GS base");
    check_equal(hypercall_set_segment_base(4, 0), -XEN_EINVAL, "an unknown register");
    check_equal(read_fs(), 0xaaaa, "nothing changed");

    user_init();
    ((u64 *)user_data)[0] = 0x1111;
    ((u64 *)user_data)[1] = 0x2222;
    hypercall_set_segment_base(SEGBASE_FS, USER_DATA_ADDRESS + 8);
    trap = user_run_code(read_bases);
    check_equal(trap.kind, KIND_SYSCALL, "user mode reads through FS and GS");
    check_equal(trap.registers.rax, 0x2222, "FS base is shared");
    check_equal(trap.registers.rbx, 0x1111, "GS base is the user's");
    check_equal(read_gs(), 0xbbbb, "the kernel's GS is back");

    check_equal(hypercall_set_segment_base(SEGBASE_GS_USER_SEL, FLAT_USER_DS32), 0, "SEGBASE_GS_USER_SEL");
    check_equal(read_gs(), 0xbbbb, "leaves the kernel's GS base");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_FS_BASE), "a"((u32)(u64)&b), "d"((u64)&b >> 32) : "memory");
    check_equal(trap.kind, KIND_NONE, "wrmsr to MSR_FS_BASE");
    check_equal(read_fs(), 0xbbbb, "works");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_GS_BASE), "a"(0), "d"(0x8000) : "memory");
    check_trap(trap, VECTOR_GP, 0, "wrmsr of a non-canonical GS base");
    trap = TRAP_OF(MAY_FAULT("wrmsr")::"c"(MSR_GS_BASE), "a"((u32)(u64)&a), "d"((u64)&a >> 32) : "memory");
    check_equal(read_gs(), 0xaaaa, "wrmsr to MSR_GS_BASE");
}
