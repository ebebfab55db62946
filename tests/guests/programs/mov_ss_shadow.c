/* A data breakpoint hit by MOV SS is told after the next instruction (SDM, "masking exceptions when switching stacks"). When that one enters Xen,
 * the breakpoint is Xen's to see, and the guest is not told (XSA-260, XSA-265). DR7 holds from the write on. */
#include "guest.h"

#define DR7_ALL_4_OCTETS (0x300UL | 3 << 16 | 3 << 18) /* LE, GE; data read or write of DR0 */

static u32 stack_selector;

USER_CODE(stack_and_call, "mov $0x401000, %ebx\n mov %rsp, %rbp\n btc $63, %rsp\n mov (%rbx), %ss\n syscall\n nop");

static void kernel_cases(void)
{
    extern char after_next[];
    u16 selector = segment_read(ss);
    struct trap_record trap;

    stack_selector = selector;
    hypercall_set_debugreg(0, (u64)&stack_selector);
    trap = TRAP_OF("mov %1, %%dr7\n mov %0, %%ss\n nop\n .globl after_next\n after_next: nop\n" ::"m"(stack_selector),
                   "r"(DR7_ALL_4_OCTETS | 3) : "memory");
    check_trap(trap, VECTOR_DB, 0, "a watched MOV SS, with DR7 written by the instruction before");
    check_equal(trap.count, 1, "once");
    check_equal(trap.registers.rip, (u64)after_next, "after the next instruction");
    hypercall_set_debugreg(6, 1 << 13);
    trap = TRAP_OF("mov %0, %%ss\n int3\n" ::"m"(stack_selector) : "memory");
    check_trap(trap, VECTOR_BP, 0, "INT3 after a watched MOV SS");
    check_equal(trap.count, 1, "and only that");
    trap = TRAP_OF("mov %0, %%ss\n" MAY_FAULT("ud2") ::"m"(stack_selector) : "memory");
    check_trap(trap, VECTOR_UD, 0, "UD2 after a watched MOV SS");
    trap = TRAP_OF("mov %w0, %%ss\n nop\n" ::"r"(selector));
    check_equal(trap.kind, KIND_NONE, "MOV SS from a register reads nothing that is watched");
}

static void user_case(void)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    user_init();
    *(u32 *)user_data = FLAT_USER_SS64;
    hypercall_set_debugreg(0, USER_DATA_ADDRESS);
    trap = user_run(stack_and_call, stack_and_call_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "SYSCALL after a watched MOV SS, on a stack that is none");
    check_equal(trap.registers.rsp ^ trap.registers.rbp, 1UL << 63, "its stack pointer is told as it is");
}

PROGRAM(mov_ss_shadow)
{
    trap_expect(VECTOR_DB);
    trap_expect(VECTOR_BP);
    kernel_cases();
    user_case();
    hypercall_set_debugreg(7, 0x400);
}
