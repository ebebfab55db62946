/*
 * REP MOVS and REP STOS by the page instead of by the element: kernels clear and copy pages with them.
 *
 * Called before the translated single step, which does whatever is left: page crossings, TLB misses and the faults that they end in,
 * watched pages, pages that hold translated code, overlapping copies. At most one page is done between two looks for a kick.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "uc_priv.h"

/* Below this many elements the single steps are as fast. */
#define WORTH_IT 4

/* How many elements from `address` on lie in its page whole. */
static uint64_t elements_in_page(uint64_t address, uint32_t shift)
{
    return (TARGET_PAGE_SIZE - (address & ~TARGET_PAGE_MASK)) >> shift;
}

/* The host address of a page that the TLB maps as plain memory for the access; NULL if it does not (yet). */
static uint8_t *plain_memory(CPUX86State *env, uint64_t address, bool write)
{
    CPUTLBEntry *entry = tlb_entry(env, cpu_mmu_index(env, false), address);

    if ((write ? entry->addr_write : entry->addr_read) != (address & TARGET_PAGE_MASK)) {
        return NULL;
    }
    return (uint8_t *)(uintptr_t)(address + entry->addend);
}

void helper_pyxen_rep_movs(CPUX86State *env, uint32_t shift)
{
    uint64_t from = env->regs[R_ESI];
    uint64_t to = env->regs[R_EDI];
    uint64_t count = MIN(env->regs[R_ECX], MIN(elements_in_page(from, shift), elements_in_page(to, shift)));
    size_t size = count << shift;
    uint8_t *source, *target;

    if (count < WORTH_IT || env->df != 1) {
        return;
    }
    source = plain_memory(env, from, false);
    target = plain_memory(env, to, true);
    if (!source || !target || (target > source && target < source + size)) {
        return; /* the last: each element is to be copied from what the one before it has written */
    }
    memmove(target, source, size);
    env->regs[R_ESI] += size;
    env->regs[R_EDI] += size;
    env->regs[R_ECX] -= count;
}

void helper_pyxen_rep_stos(CPUX86State *env, uint32_t shift)
{
    uint64_t to = env->regs[R_EDI];
    uint64_t count = MIN(env->regs[R_ECX], elements_in_page(to, shift));
    uint64_t value = env->regs[R_EAX];
    uint8_t *target;
    uint64_t i;

    if (count < WORTH_IT || env->df != 1) {
        return;
    }
    target = plain_memory(env, to, true);
    if (!target) {
        return;
    }
    switch (shift) {
    case 0:
        memset(target, value, count);
        break;
    case 1:
        for (i = 0; i < count; i++) {
            stw_p(target + i * 2, value);
        }
        break;
    case 2:
        for (i = 0; i < count; i++) {
            stl_p(target + i * 4, value);
        }
        break;
    default:
        for (i = 0; i < count; i++) {
            stq_p(target + i * 8, value);
        }
        break;
    }
    env->regs[R_EDI] += count << shift;
    env->regs[R_ECX] -= count;
}
