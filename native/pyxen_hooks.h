/*
 * What the edits in native/edits*.py call. Included by the engine's own files, so it needs none of their types.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#ifndef PYXEN_HOOKS_H
#define PYXEN_HOOKS_H

#include <stdbool.h>
#include <stdint.h>

#include "pyxen_state.h"

struct CPUState;
struct CPUX86State;
struct TranslationBlock;
struct uc_struct;

/* cpu-exec.c: what to do with cpu->exception_index. True: leave cpu_exec. */
bool pyxen_handle_exception(struct CPUState *cpu, int *ret);
/* cpu-exec.c, between two blocks: act on kicks and invalidations. True: look at exception_index again. */
bool pyxen_stop_requested(struct CPUState *cpu, struct TranslationBlock **last_tb);

/* Helpers of instructions. retaddr is GETPC(), or 0 when the translator has already stored RIP and the flags. */
void pyxen_exit_cpuid(struct CPUX86State *env, uintptr_t retaddr);
void pyxen_exit_msr(struct CPUX86State *env, bool write, uintptr_t retaddr);
void pyxen_rdtsc(struct CPUX86State *env, bool is_rdtscp, uintptr_t retaddr);
void pyxen_exit_halt(struct CPUX86State *env);
void pyxen_exit_far_transfer(struct CPUX86State *env, uintptr_t retaddr);
bool pyxen_iret_to_itself(struct CPUX86State *env, int shift, uintptr_t retaddr);
void pyxen_exit_triple_fault(struct CPUX86State *env, uintptr_t retaddr);
void pyxen_system_call(struct CPUX86State *env, int length, bool is_sysenter, uintptr_t retaddr);
/* The privilege that a load of SS gives. */
int pyxen_new_cpl(struct CPUX86State *env, int cpl);
/* The privilege that loads of data segments are checked with. */
int pyxen_segment_cpl(struct CPUX86State *env, int cpl);

/* Loads of control registers. */
void pyxen_check_control(struct CPUX86State *env, int reg, uint64_t value);
uint64_t pyxen_read_cr8(struct CPUX86State *env);
void pyxen_write_cr8(struct CPUX86State *env, uint64_t value);

/* DR0-3 as data breakpoints: which of BP_MEM_READ and BP_MEM_WRITE to look at in a page, and the look at one access. */
int pyxen_watched_accesses(struct CPUState *cpu, uint64_t page);
void pyxen_check_watchpoints(struct CPUState *cpu, uint64_t address, uint64_t size, int access, uintptr_t retaddr);

/* Looks at the instruction at RIP. */
bool pyxen_is_stack_access(struct CPUX86State *env, uint64_t address);
void pyxen_correct_fault_address(struct CPUState *cpu, uint64_t address, bool is_store, uintptr_t retaddr);
bool pyxen_at_bytes(struct CPUX86State *env, const uint8_t *wanted, int count);

/* In hflags, hence part of what a block is translated for: MXCSR unmasks an exception. */
#define PYXEN_HF_SSE_CHECKED (1u << 28)
void pyxen_mxcsr_loaded(struct CPUX86State *env);

/* In hflags, likewise, and only in code that is not 64-bit: CS has a limit; one of DS, ES, SS is not flat; one of FS, GS is not. */
#define PYXEN_HF_LIMITED_CODE (1u << 30)
#define PYXEN_HF_CHECKED_DATA (1u << 27)
#define PYXEN_HF_CHECKED_FS_GS (1u << 31)
void pyxen_segments_changed(struct CPUX86State *env);
bool pyxen_segment_is_checked(const struct CPUX86State *env, uint32_t flags, int segment);
/* In a block's flags only: misaligned accesses fault. */
#define PYXEN_HF_ALIGNED (1u << 29)
bool pyxen_checks_alignment(const struct CPUX86State *env);

/* Physical memory. */
uint64_t pyxen_physical(struct CPUState *cpu, uint64_t address, int access, int *prot);
uint64_t pyxen_read_pte(struct CPUState *cpu, uint64_t address);
void pyxen_set_pte_flags(struct CPUState *cpu, uint64_t address, uint32_t value);
bool pyxen_entry_changed(struct CPUState *cpu); /* before that could set them, since the last question */
/* Where a locked operation on `size` octets in two pages is to be made; and after each locked operation. */
void *pyxen_operand_in_two_pages(struct CPUX86State *env, uint64_t address, int size, int mmu_idx, uintptr_t retaddr);
void pyxen_operand_done(struct CPUX86State *env);
void pyxen_bad_memory(struct CPUState *cpu, uint64_t address) __attribute__((noreturn));

/* Translated code and the frames it came from (offsets into memory, in bytes). */
bool pyxen_frame_is_clean(struct uc_struct *uc, uint64_t offset);
void pyxen_protect_frame(struct uc_struct *uc, uint64_t offset);
void pyxen_unprotect_frame(struct uc_struct *uc, uint64_t offset);
void pyxen_all_code_dropped(struct uc_struct *uc);
void pyxen_write_clean_frame(struct CPUState *cpu, uint64_t address, uint64_t offset, unsigned size, uintptr_t retaddr);
/* Added to translate-all.c, where the page descriptors are. */
void pyxen_drop_written_code(struct uc_struct *uc, uint64_t offset, int size, uintptr_t retaddr);

#endif
