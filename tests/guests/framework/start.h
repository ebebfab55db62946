/* What the guest finds when it starts, and how it ends. */
#pragma once

#include "types.h"

/* Registers exactly as they were at the first instruction (boot.S fills this in). */
struct boot_registers {
    u64 rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15;
    u64 rflags, cs, ss, ds, es, fs, gs;
};

extern struct boot_registers boot_registers;
extern struct start_info *start_info;
extern struct shared_info *shared_info;

extern char kernel_stack_top[], trap_stack_top[], image_start[], image_end[];

/* Every program defines these two. */
extern const char program_name[];
void program(void);

/* Ask for the shutdown of the domain with a SHUTDOWN_* reason. Returns only if it was a suspend that was cancelled. */
long shutdown(unsigned reason);

/* Print `RESULT PASS|FAIL` and power off. Called when program() returns; a program may call it earlier. */
void finish(void) __attribute__((noreturn));
