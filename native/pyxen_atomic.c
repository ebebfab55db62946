/*
 * Locked operations on an operand that lies in two pages. The host's locked operations would do, if the two frames were neighbours in the
 * host's address space; so the frames are mapped a second time, side by side, and the operation is made there. It is atomic against
 * everything: other CPUs, page walks, the hypervisor.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include <sys/mman.h>

#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* With an old size of 0 mremap makes a second mapping of shared memory. */
static bool map_again(uint8_t *page, uint8_t *to)
{
    return mremap(page, 0, TARGET_PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to;
}

/* The pages side by side; NULL if the host can't do that. The last pair stays mapped, since operations on one place come in numbers. */
static uint8_t *side_by_side(struct pyxen_cpu *p, uint8_t *first, uint8_t *second)
{
    if (second == first + TARGET_PAGE_SIZE) {
        return first;
    }
    if (p->pair_first == first && p->pair_second == second) {
        return p->pair;
    }
    p->pair_first = p->pair_second = NULL;
    if (!p->pair) {
        void *room = mmap(NULL, 2 * TARGET_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (room == MAP_FAILED) {
            return NULL;
        }
        p->pair = room;
    }
    if (!map_again(first, p->pair) || !map_again(second, p->pair + TARGET_PAGE_SIZE)) {
        return NULL;
    }
    p->pair_first = first;
    p->pair_second = second;
    return p->pair;
}

void *pyxen_operand_in_two_pages(CPUX86State *env, uint64_t address, int size, int mmu_idx, uintptr_t retaddr)
{
    struct pyxen_cpu *p = env->uc->pyxen;
    int in_first = TARGET_PAGE_SIZE - (address & ~TARGET_PAGE_MASK);
    /* Both may fault, and code in either is dropped, before anything is written. */
    uint8_t *first = probe_access(env, address, in_first, MMU_DATA_STORE, mmu_idx, retaddr);
    uint8_t *second = probe_access(env, address + in_first, size - in_first, MMU_DATA_STORE, mmu_idx, retaddr);
    uint8_t *pair = side_by_side(p, first + in_first - TARGET_PAGE_SIZE, second);

    if (!pair) {
        pyxen_internal_error(env, errno, retaddr);
    }
    return pair + TARGET_PAGE_SIZE - in_first;
}

void pyxen_free_pair(struct pyxen_cpu *p)
{
    if (p->pair) {
        munmap(p->pair, 2 * TARGET_PAGE_SIZE);
    }
}
