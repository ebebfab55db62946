/* Far returns and iret without a hypercall: flat code segments work, others give #GP with the selector. */
#include "guest.h"

static u64 far_return_to(u16 selector)
{
    u64 result = 0;

    asm volatile("lea 1f(%%rip), %%rax\n"
                 "push %[selector]\n"
                 "push %%rax\n"
                 "lretq\n"
                 "1: mov $1, %[result]"
                 : [result] "+r"(result)
                 : [selector] "r"((u64)selector)
                 : "rax", "memory");
    return result;
}

static void bad_far_return(void)
{
    asm volatile("push $0xe008; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" ::: "rax", "memory");
}

static void null_far_return(void)
{
    asm volatile("push $0; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" ::: "rax", "memory");
}

static void data_far_return(void)
{
    asm volatile("push $0xe02b; lea 1f(%%rip), %%rax; push %%rax; lretq; 1:" ::: "rax", "memory");
}

PROGRAM(far_transfers)
{
    struct trap_record trap;
    u64 reached = 0, flags = 0;

    check_equal(far_return_to(FLAT_KERNEL_CS), 1, "lretq to FLAT_KERNEL_CS");
    check_equal(segment_read(cs), FLAT_KERNEL_CS, "CS");
    asm volatile("mov %%rsp, %%rcx\n"
                 "push %[ss]; push %%rcx; pushf; push %[cs]\n"
                 "lea 1f(%%rip), %%rax\n"
                 "push %%rax\n"
                 "iretq\n"
                 "1: mov $1, %[reached]\n"
                 "pushf; pop %[flags]"
                 : [reached] "+r"(reached), [flags] "+r"(flags)
                 : [ss] "r"((u64)FLAT_KERNEL_SS), [cs] "r"((u64)FLAT_KERNEL_CS)
                 : "rax", "rcx", "memory");
    check_equal(reached, 1, "iretq within the kernel");
    check_equal(flags & (X86_EFLAGS_IF | X86_EFLAGS_IOPL), X86_EFLAGS_IF, "IF and IOPL can't be changed by it");
    trap = trap_of_call(bad_far_return);
    check_trap(trap, VECTOR_GP, 0xe008, "lretq to Xen's code segment");
    trap = trap_of_call(null_far_return);
    check_trap(trap, VECTOR_GP, 0, "lretq to a null selector");
    trap = trap_of_call(data_far_return);
    check_trap(trap, VECTOR_GP, 0xe028, "lretq to a data segment");
}
