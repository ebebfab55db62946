/* Running code at CPL 3 in page tables of its own. */
#pragma once

#include "trap.h"

/* User space: one code page, one data page and one stack page, at addresses that fit in 32 bits. */
#define USER_CODE_ADDRESS 0x400000UL
#define USER_DATA_ADDRESS 0x401000UL
#define USER_STACK_TOP 0x404000UL

/* USER_CODE(name, "assembly"): position-independent code for the user page; `name` and `name_end` bound it. */
#define USER_CODE(name, text)                       \
    asm(".pushsection .rodata.user, \"a\"\n"        \
        #name ":\n" text "\n"                       \
        #name "_end: .byte 0\n"                     \
        ".code64\n"                                 \
        ".popsection\n");                           \
    extern const char name[], name##_end[]

/* Make the user page tables, pin them and install them with MMUEXT_NEW_USER_BASEPTR. */
void user_init(void);
extern u64 *user_root;  /* the L4 */
extern u8 *user_data;   /* the data page as the kernel sees it */
u64 *user_pte(unsigned long address); /* L1 entry of a user address */

/* Registers with which user code starts: set what matters, the rest is zero. 64-bit, flat, events masked. */
struct registers user_registers(void);

/* Copy the code to the user page and run it till the first trap or callback that comes from user mode. -> what it was. */
struct trap_record user_run(const char *code, const char *code_end, struct registers registers);
#define user_run_code(name) user_run(name, name##_end, user_registers())

void user_stopped(struct registers *registers); /* called by the dispatcher; does not return if user_run() waits */
