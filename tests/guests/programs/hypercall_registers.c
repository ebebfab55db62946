/* A hypercall changes RAX, RCX, R11 and its argument registers, and nothing else. */
#include "guest.h"

PROGRAM(hypercall_registers)
{
    u64 rbx = 1, rbp_probe = 2, r12 = 3, r13 = 4, r14 = 5, r15 = 6, flags_before, flags_after;

    asm volatile("push %%rbp\n"
                 "mov $0xb1, %%ebx; mov $0xb2, %%ebp; mov $0xb3, %%r12d; mov $0xb4, %%r13d; mov $0xb5, %%r14d; mov $0xb6, %%r15d\n"
                 "xor %%edi, %%edi; xor %%esi, %%esi\n"
                 "mov $17, %%eax\n"
                 "syscall\n"
                 "mov %%rbp, %%rax\n"
                 "pop %%rbp\n"
                 : "=b"(rbx), "=a"(rbp_probe)
                 :
                 : "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
    check_equal(rbx, 0xb1, "RBX is kept");
    check_equal(rbp_probe, 0xb2, "RBP is kept");
    asm volatile("mov $0xb3, %%r12d; mov $0xb4, %%r13d; mov $0xb5, %%r14d; mov $0xb6, %%r15d; mov $17, %%eax; xor %%edi, %%edi; syscall\n"
                 "mov %%r12, %0; mov %%r13, %1; mov %%r14, %2; mov %%r15, %3"
                 : "=m"(r12), "=m"(r13), "=m"(r14), "=m"(r15)
                 :
                 : "rax", "rcx", "rdx", "rdi", "rsi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory");
    check_equal(r12, 0xb3, "R12 is kept");
    check_equal(r13, 0xb4, "R13 is kept");
    check_equal(r14, 0xb5, "R14 is kept");
    check_equal(r15, 0xb6, "R15 is kept");
    asm volatile("stc; pushf; pop %[before]; mov $17, %%eax; xor %%edi, %%edi; stc; syscall; pushf; pop %[after]"
                 : [before] "=&b"(flags_before), [after] "=&S"(flags_after)
                 :
                 : "rax", "rcx", "rdx", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
    check(flags_after & X86_EFLAGS_CF, "CF is kept");
    check_equal(flags_after & ~X86_EFLAGS_ARITHMETIC, flags_before & ~X86_EFLAGS_ARITHMETIC, "the other flags are kept");
    check_equal(flags_after & (X86_EFLAGS_IF | X86_EFLAGS_IOPL), X86_EFLAGS_IF, "IF reads 1 and IOPL 0, with upcalls masked");
}
