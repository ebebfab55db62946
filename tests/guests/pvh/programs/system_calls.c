/* @modes 64
 * SYSCALL and SYSRET, SYSENTER and SYSEXIT, SWAPGS, from 64-bit and from 32-bit user mode, and what they refuse. */
#include "guest.h"

struct {
    u64 rcx, r11, flags, cs, ss, gs, count;
} call_seen;

extern const char user_syscalls[], user_sysenter[], user_syscall32[];
extern const char syscall_entry[], sysenter_entry[], syscall32_entry[];
asm(".text\n"
    "syscall_entry:\n"
    "    swapgs\n"
    "    mov %rcx, call_seen; mov %r11, call_seen + 8\n"
    "    pushfq; pop call_seen + 16\n"
    "    mov %cs, call_seen + 24; mov %ss, call_seen + 32\n"
    "    mov %gs:0, %r8; mov %r8, call_seen + 40\n"
    "    incq call_seen + 48\n"
    "    swapgs\n"
    "    sysretq\n"
    "user_syscalls: mov $10, %ebx; std\n"
    "1:  syscall; dec %ebx; jnz 1b\n"
    "    pushfq; pop %rbx; cld; ud2\n"
    "sysenter_entry:\n"
    "    mov %cs, call_seen + 24; mov %ss, call_seen + 32; mov %rsp, call_seen + 40\n"
    "    incq call_seen + 48\n"
    "    mov %rbp, %rcx; mov %rdi, %rdx; rex.w sysexit\n"
    "user_sysenter: mov %rsp, %rbp; lea 1f(%rip), %rdi; sysenter; ud2\n"
    "1:  mov %cs, %ebx; mov %ss, %edx; ud2\n"
    "syscall32_entry:\n"
    "    mov %rcx, call_seen; incq call_seen + 48; sysretl\n"
    ".code32\n"
    "user_syscall32: mov %esp, %ebp; .byte 0x0f, 0x05; mov $0x1234, %ebx; ud2\n"
    ".code64\n");

static struct registers run(const void *code, u16 cs)
{
    struct registers user;

    user_prepare(&user, code);
    user.cs = cs;
    user_run(&user);
    return user;
}

PROGRAM(system_calls)
{
    static u64 kernel_data = 0xfeed, user_data = 0xbeef;
    struct registers user;
    u32 leaf[4];

    user = run(user_syscalls, USER_CS);
    check_equal(user.vector, VECTOR_UD, "SYSCALL without EFER.SCE");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_SCE);
    wrmsr(MSR_STAR, (u64)(USER_CS32 & ~3) << 48 | (u64)3 << 48 | (u64)KERNEL_CS << 32);
    wrmsr(MSR_LSTAR, (u64)syscall_entry);
    wrmsr(MSR_SFMASK, X86_EFLAGS_DF | X86_EFLAGS_IF);
    wrmsr(MSR_GS_BASE, (u64)&user_data);
    wrmsr(MSR_KERNEL_GS_BASE, (u64)&kernel_data);
    user = run(user_syscalls, USER_CS);
    check_equal(user.vector, VECTOR_UD, "ten system calls");
    check_equal(call_seen.count, 10, "all of them came");
    check_equal(call_seen.rcx, user.ip - 7, "RCX is the address behind the instruction");
    check(call_seen.r11 & X86_EFLAGS_DF, "R11 has the flags");
    check(!(call_seen.flags & X86_EFLAGS_DF), "SFMASK clears DF");
    check_equal(call_seen.cs & 0xffff, KERNEL_CS, "CS of the kernel");
    check_equal(call_seen.ss & 0xffff, KERNEL_DS, "SS of the kernel");
    check_equal(call_seen.gs, 0xfeed, "SWAPGS");
    check(user.bx & X86_EFLAGS_DF, "SYSRET restores the flags");
    check_equal(user.cs, USER_CS, "and CS");
    check_equal(rdmsr(MSR_GS_BASE), (u64)&user_data, "the GS base is the user's again");

    cpuid(1, 0, leaf);
    if (leaf[3] >> 11 & 1) {
        user = run(user_sysenter, USER_CS);
        check_equal(user.vector, VECTOR_GP, "SYSENTER with a null SYSENTER_CS");
        wrmsr(MSR_SYSENTER_CS, KERNEL_CS);
        wrmsr(MSR_SYSENTER_EIP, (u64)sysenter_entry);
        wrmsr(MSR_SYSENTER_ESP, (u64)kernel_stack_top - 16384);
        call_seen.count = 0;
        user = run(user_sysenter, USER_CS);
        check_equal(call_seen.count, 1, "SYSENTER");
        check_equal(call_seen.cs & 0xffff, KERNEL_CS, "CS of the kernel");
        check_equal(call_seen.ss & 0xffff, KERNEL_DS, "SS of the kernel");
        check_equal(call_seen.gs, (u64)kernel_stack_top - 16384, "RSP");
        check_equal(user.vector, VECTOR_UD, "and back by SYSEXIT");
        check_equal(user.bx, USER_CS, "CS of user mode");
        check_equal(user.dx, 0x3b, "SS of user mode");
    }
    cpuid(0, 0, leaf);
    if (leaf[2] == 0x444d4163) { /* AuthenticAMD: SYSCALL from 32-bit code */
        wrmsr(MSR_CSTAR, (u64)syscall32_entry);
        call_seen.count = 0;
        user = run(user_syscall32, USER_CS32);
        check_equal(call_seen.count, 1, "SYSCALL from 32-bit code");
        check_equal(user.bx, 0x1234, "it returned");
        check_equal(user.cs, USER_CS32, "to 32-bit code");
    }
}
