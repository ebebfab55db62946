/* #SS: non-canonical addresses through RSP and RBP. */
#include "guest.h"

PROGRAM(trap_ss)
{
    struct trap_record trap;

    trap = TRAP_OF("push %%rbp\n mov %0, %%rbp\n" MAY_FAULT("mov (%%rbp), %%rax") "pop %%rbp" ::"r"(NON_CANONICAL) : "rax", "memory");
    check_trap(trap, VECTOR_SS, 0, "read through RBP");
    trap = TRAP_OF("push %%rbp\n mov %0, %%rbp\n" MAY_FAULT("movb $1, (%%rbp)") "pop %%rbp" ::"r"(NON_CANONICAL) : "memory");
    check_trap(trap, VECTOR_SS, 0, "write through RBP");
    trap = TRAP_OF("push %%rbp\n mov %0, %%rbp\n" MAY_FAULT("mov %%ds:(%%rbp), %%rax") "pop %%rbp" ::"r"(NON_CANONICAL) : "rax", "memory");
    check_equal(trap.kind == VECTOR_SS || trap.kind == VECTOR_GP, 1, "a DS override is ignored or not, but it faults");
    trap = TRAP_OF(MAY_FAULT("mov (%0), %%rax")::"r"(NON_CANONICAL) : "rax", "memory");
    check_trap(trap, VECTOR_GP, 0, "any other register: #GP");
}
