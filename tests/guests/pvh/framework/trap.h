/* Exceptions and interrupts through the guest's own IDT, and how a program states which one it expects. As in PV micro-guests (../framework/trap.h). */
#pragma once

#include "types.h"

#include "segments.h"

enum {
    VECTOR_DE = 0,
    VECTOR_DB = 1,
    VECTOR_NMI = 2,
    VECTOR_BP = 3,
    VECTOR_OF = 4,
    VECTOR_UD = 6,
    VECTOR_NM = 7,
    VECTOR_DF = 8,
    VECTOR_TS = 10,
    VECTOR_NP = 11,
    VECTOR_SS = 12,
    VECTOR_GP = 13,
    VECTOR_PF = 14,
    VECTOR_MF = 16,
    VECTOR_AC = 17,
    VECTOR_XM = 19,
    KIND_NONE = 999,
};

#define PF_PRESENT 1
#define PF_WRITE 2
#define PF_USER 4
#define PF_RESERVED 8
#define PF_FETCH 16

/* The layout that entry.S makes of every frame. In 32-bit code sp and ss are there only if the trap came from user mode. */
struct registers {
#ifdef __x86_64__
    u64 r15, r14, r13, r12, r11, r10, r9, r8, di, si, bp, bx, dx, cx, ax;
    u64 vector, error, ip, cs, flags, sp, ss;
#else
    u32 di, si, bp, ignored, bx, dx, cx, ax;
    u32 vector, error, ip, cs, flags, sp, ss;
#endif
};

struct trap_record {
    unsigned kind;
    unsigned count;
    unsigned long error, cr2;
    struct registers registers;
};

extern struct trap_record trap_record;
extern volatile unsigned interrupt_counts[256];

typedef void trap_handler_t(struct registers *registers);
void trap_set_handler(unsigned vector, trap_handler_t *handler); /* instead of the recording; NULL removes it */
void trap_expect(unsigned vector);                               /* record it and return to where the frame says */
void interrupt_expect(unsigned vector);                          /* count it in interrupt_counts[] and end it at the local APIC */

void traps_init(void);
void traps_load(unsigned vcpu); /* IDT and TSS of a vCPU */
void gate_set(unsigned vector, const void *address, unsigned selector, u8 type, u8 stack); /* type: 0x8e an interrupt gate, 0xee for users */
extern const void *const gates[256];
void trap_remember(const struct registers *registers);
void trap_unexpected(const struct registers *registers) __attribute__((noreturn));

#ifdef __x86_64__
#define TABLE_POINTER ".quad "
#else
#define TABLE_POINTER ".long "
#endif

/* TRAP_OF(asm statement parts): the record of the trap that it caused. MAY_FAULT("instruction"): go on behind it when it faults. */
#define MAY_FAULT(instruction)                 \
    "98: " instruction "\n"                    \
    "99:\n"                                    \
    ".pushsection .exception_table, \"a\"\n"   \
    TABLE_POINTER "98b, 99b\n"                 \
    ".popsection\n"

#define TRAP_OF(...)               \
    ({                             \
        trap_forget();             \
        asm volatile(__VA_ARGS__); \
        barrier();                 \
        trap_record;               \
    })

void trap_forget(void);
struct trap_record trap_of_call(void (*function)(void)); /* a fault inside ends the call */

#define check_trap(trap, wanted_kind, wanted_error, what)                  \
    do {                                                                   \
        check_equal((trap).kind, wanted_kind, what);                       \
        if ((wanted_kind) != KIND_NONE)                                    \
            check_equal((trap).error, wanted_error, what " (error code)"); \
    } while (0)

/* Run code at CPL 3 till its first trap, whose registers come back in *registers. */
void user_run(struct registers *registers);
void user_prepare(struct registers *registers, const void *code); /* 64-bit (or 32-bit) user code on a stack of its own */

static inline void interrupts_on(void)
{
    asm volatile("sti; nop" ::: "memory");
}

static inline void interrupts_off(void)
{
    asm volatile("cli" ::: "memory");
}
