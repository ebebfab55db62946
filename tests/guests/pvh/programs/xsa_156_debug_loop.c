/* @expect running
 * XSA-156: a data breakpoint on the stack that its own exception is delivered to, without end. The vCPU must stop all the same when it is told to. */
#include "guest.h"

extern const char debug_gate[];
asm(".text\ndebug_gate: add $40, %rsp; jmp 1f\n1: movl $0, -8(%rsp); jmp 1b");

PROGRAM(xsa_156_debug_loop)
{
    unsigned long sp;

    print("RESULT PASS\n");
    asm volatile("mov %%rsp, %0" : "=r"(sp));
    gate_set(VECTOR_DB, debug_gate, KERNEL_CS, 0x8e, 0);
    asm volatile("mov %0, %%dr0" ::"r"((sp - 40) & ~7UL));
    asm volatile("mov %0, %%dr1" ::"r"((sp - 48) & ~7UL));
    asm volatile("mov %0, %%dr7" ::"r"(0x990403UL | 0xffUL << 16)); /* 0 and 1: writes of 8 octets */
    for (;;)
        asm volatile("push $0; pop %%rax" ::: "rax");
}
