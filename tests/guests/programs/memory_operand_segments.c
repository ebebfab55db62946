/* The segment of a memory operand, seen by its fault at an address that is none: #SS through RSP and RBP, whatever override there is but FS and GS, else #GP. */
#include "guest.h"

struct operand { const char *name; void (*read)(void); unsigned kind; };

#define STUB(name, prefix, base)                                                                                 \
    static void name(void)                                                                                       \
    {                                                                                                            \
        asm volatile("push %%rbp\n push %%rbx\n mov %%rsp, %%r11\n movabs $0x8000000040000000, %%" base "\n"     \
                     MAY_FAULT(prefix "mov (%%" base "), %%r10")                                                 \
                     "mov %%r11, %%rsp\n pop %%rbx\n pop %%rbp" ::: "memory", "rax", "rcx", "rdx", "rsi", "rdi", \
                     "r8", "r9", "r10", "r11");                                                                  \
    }

#define STUBS(segment, prefix)                                                                                         \
    STUB(segment##_rax, prefix, "rax") STUB(segment##_rbx, prefix, "rbx") STUB(segment##_rbp, prefix, "rbp")           \
    STUB(segment##_rsi, prefix, "rsi") STUB(segment##_r8, prefix, "r8") STUB(segment##_r12, prefix, "r12")             \
    STUB(segment##_r13, prefix, "r13")

STUBS(none, "")
STUBS(es, ".byte 0x26\n ")
STUBS(cs, ".byte 0x2e\n ")
STUBS(ss, ".byte 0x36\n ")
STUBS(ds, ".byte 0x3e\n ")
STUBS(fs, ".byte 0x64\n ")
STUBS(gs, ".byte 0x65\n ")

#define OPERANDS(segment, through_stack)                                                                               \
    {#segment ":(rax)", segment##_rax, VECTOR_GP}, {#segment ":(rbx)", segment##_rbx, VECTOR_GP},                      \
    {#segment ":(rbp)", segment##_rbp, through_stack}, {#segment ":(rsi)", segment##_rsi, VECTOR_GP},                  \
    {#segment ":(r8)", segment##_r8, VECTOR_GP}, {#segment ":(r12)", segment##_r12, VECTOR_GP}, {#segment ":(r13)", segment##_r13, VECTOR_GP}

PROGRAM(memory_operand_segments)
{
    static const struct operand operands[] = {
        OPERANDS(none, VECTOR_SS), OPERANDS(es, VECTOR_SS), OPERANDS(cs, VECTOR_SS), OPERANDS(ss, VECTOR_SS), OPERANDS(ds, VECTOR_SS),
        OPERANDS(fs, VECTOR_GP), OPERANDS(gs, VECTOR_GP),
    };

    for (size_t i = 0; i < ARRAY_SIZE(operands); i++) {
        struct trap_record trap = trap_of_call(operands[i].read);

        check(trap.kind == operands[i].kind && trap.error == 0, "%s gives %u, got %u with error code 0x%lx", operands[i].name, operands[i].kind, trap.kind,
              trap.error);
    }
}
