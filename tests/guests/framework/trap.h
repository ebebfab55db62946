/* Exceptions, callbacks, and how a program states which one it expects. */
#pragma once

#include "types.h"

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
    KIND_EVENT = 256,
    KIND_FAILSAFE = 257,
    KIND_SYSCALL = 258,
    KIND_SYSCALL32 = 259,
    KIND_SYSENTER = 260,
    KIND_NONE = 999,
};

#define PF_PRESENT 1
#define PF_WRITE 2
#define PF_USER 4
#define PF_RESERVED 8
#define PF_FETCH 16

/* The layout that entry.S makes of every bounce frame. From `rax` on it is struct iret_context. */
struct registers {
    u64 r15, r14, r13, r12, rbp, rbx, r10, r9, r8, rdx, rsi, rdi;
    u64 error, kind;
    u64 rax, r11, rcx, flags, rip;
    u16 cs, cs_pad;
    u8 saved_upcall_mask, mask_pad[3];
    u64 rflags, rsp, ss;
};

/* What one trap looked like to the guest. `kind` is the vector, a KIND_*, or KIND_NONE if nothing was taken. */
struct trap_record {
    unsigned kind;
    unsigned count;
    u64 error, cr2;
    bool upcall_mask; /* vcpu_info.evtchn_upcall_mask in the handler */
    struct registers registers;
};

extern struct trap_record trap_record;
extern u64 failsafe_segments[4];

/* Vectors in this bitmap return to where the frame says after being recorded, though no exception table entry names the place (int n, TF, NMI, ...). */
void trap_expect(unsigned kind);
void trap_unexpect(unsigned kind);

/* A handler of the program's own, called instead of the recording. NULL removes it. */
typedef void trap_handler_t(struct registers *registers);
void trap_set_handler(unsigned kind, trap_handler_t *handler);

void traps_init(void);
void traps_fill(struct trap_info *table); /* the 32 exception vectors */
void trap_table_install(unsigned vector, u8 flags); /* (re)install one entry with these TI flags */
extern void *const vector_entry_points[256];
extern char entry_event[], entry_failsafe[], entry_syscall[], entry_syscall32[], entry_sysenter[];
long callback_register(unsigned type, unsigned flags, const void *address);

/*
 * TRAP_OF(asm statement parts): run the statement and give the record of the trap that it caused. MAY_FAULT("instruction") puts the instruction
 * into the exception table, so that execution goes on after it when it faults. For example:
 *
 *     struct trap_record trap = TRAP_OF(MAY_FAULT("ud2"));
 *     check_equal(trap.kind, VECTOR_UD, "ud2 gives #UD");
 */
#define MAY_FAULT(instruction)                                \
    "98: " instruction "\n"                                   \
    "99:\n"                                                   \
    ".pushsection .exception_table, \"a\"\n"                  \
    ".quad 98b, 99b\n"                                        \
    ".popsection\n"

#define TRAP_OF(...)                  \
    ({                                \
        trap_forget();                \
        asm volatile(__VA_ARGS__);    \
        barrier();                    \
        trap_record;                  \
    })

void trap_forget(void);
void trap_remember(const struct registers *registers); /* fill trap_record */

/* Call a function; a fault inside it ends the call. -> the record. */
struct trap_record trap_of_call(void (*function)(void));

/* Report a trap that nobody expected, print RESULT FAIL and power off. */
void trap_unexpected(const struct registers *registers) __attribute__((noreturn));

/* Checks that the trap is `kind` with `error` code. */
#define check_trap(trap, wanted_kind, wanted_error, what)     \
    do {                                                      \
        check_equal((trap).kind, wanted_kind, what);          \
        if ((wanted_kind) != KIND_NONE)                       \
            check_equal((trap).error, wanted_error, what " (error code)"); \
    } while (0)
