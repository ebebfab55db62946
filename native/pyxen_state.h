/*
 * The block that the hypervisor and the engine share for each vCPU.
 *
 * Its twin is CpuState in src/pyxen/engine/interface.py. The Python side compares every offset with pyxen_layout() when it loads the
 * library and refuses one that differs.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#ifndef PYXEN_STATE_H
#define PYXEN_STATE_H

#include <stdint.h>

/* Counts changes of the functions that the library exports and of what they mean. */
#define PYXEN_ENGINE_VERSION 6

enum pyxen_exit_reason {
    PYXEN_EXIT_KICK = 0,
    PYXEN_EXIT_EXCEPTION = 1,
    PYXEN_EXIT_SOFTWARE_INTERRUPT = 2,
    PYXEN_EXIT_SYSCALL = 3,
    PYXEN_EXIT_SYSENTER = 4,
    PYXEN_EXIT_FAR_TRANSFER = 5,
    PYXEN_EXIT_CPUID = 6,
    PYXEN_EXIT_RDMSR = 7,
    PYXEN_EXIT_WRMSR = 8,
    PYXEN_EXIT_IO = 9,
    PYXEN_EXIT_HALT = 10,
    PYXEN_EXIT_TRIPLE_FAULT = 11,
    PYXEN_EXIT_BAD_MEMORY = 12,
    PYXEN_EXIT_INTERNAL_ERROR = 13,
    PYXEN_EXIT_INTERRUPT_WINDOW = 14,
    PYXEN_EXIT_HYPERCALL = 15,
    PYXEN_EXIT_RDTSC = 16,
};

enum pyxen_dirty {
    PYXEN_DIRTY_SEGMENTS = 1,
    PYXEN_DIRTY_TABLES = 2,
    PYXEN_DIRTY_CONTROL = 4,
    PYXEN_DIRTY_DEBUG = 8,
    PYXEN_DIRTY_MSRS = 16,
    PYXEN_DIRTY_FLUSH_TLB = 32,
};

enum pyxen_cpu_flags {
    PYXEN_CPU_EXIT_ON_CPUID = 1,
    PYXEN_CPU_DEPRIVILEGED = 2,
};

struct pyxen_segment {
    uint64_t base;
    uint32_t limit;
    uint32_t attributes;
    uint32_t selector;
    uint32_t pad;
};

struct pyxen_table {
    uint64_t base;
    uint32_t limit;
    uint32_t pad;
};

struct pyxen_state {
    uint64_t gpr[16]; /* rax rcx rdx rbx rsp rbp rsi rdi r8-r15 */
    uint64_t rip, rflags;
    uint64_t cr0, cr2, cr3, cr4, efer;
    uint64_t dr[8];
    uint64_t star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux;
    struct pyxen_segment segs[6]; /* ES CS SS DS FS GS */
    struct pyxen_segment ldt, tr;
    struct pyxen_table gdt, idt;
    uint32_t cpl, dirty;
    uint32_t exit_reason, vector, error_code, instruction_length;
    uint64_t qualification;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint32_t injection, injection_error_code, interrupt_window, rdtsc_exits;
    uint64_t tsc_scale, tsc_offset;
    uint64_t cr8;
};

#endif
