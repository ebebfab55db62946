/*
 * From what a guest takes for physical addresses to the machine's memory.
 *
 * A guest without a map (PV) writes machine addresses into its page tables. With one, each of its frames is looked up: 32-bit entries,
 * the machine frame in the low 31 bits, the top bit for frames that may only be read, all ones for what is no memory. The table is
 * the hypervisor's; it may change an entry at any time and flushes the TLB after it.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define READ_ONLY (1u << 31)
#define NO_MEMORY 0xffffffffu
/* A #PF needs this much of a page-table entry; the accessed and dirty bits may be set at any time. */
#define PTE_SET_BY_CPU (PG_ACCESSED_MASK | PG_DIRTY_MASK)

PYXEN_EXPORT void pyxen_cpu_set_physical_map(struct pyxen_cpu *p, const uint32_t *map, uint64_t frames)
{
    p->physical_map = map;
    p->physical_frames = map ? frames : 0;
    tlb_flush(p->uc->cpu);
}

/* The access, as a page fault's error code would have it. */
static void QEMU_NORETURN no_memory(CPUState *cs, uint64_t address, int access)
{
    cs->uc->pyxen->state->error_code = access == MMU_DATA_STORE ? PG_ERROR_W_MASK : access == MMU_INST_FETCH ? PG_ERROR_I_D_MASK : 0;
    pyxen_bad_memory(cs, address);
}

/* An entry of the map; NO_MEMORY also for what is beyond it or the machine's memory. */
static uint32_t map_entry(const struct pyxen_cpu *p, uint64_t frame)
{
    uint32_t entry = frame < p->physical_frames ? __atomic_load_n(&p->physical_map[frame], __ATOMIC_RELAXED) : NO_MEMORY;

    return (entry & ~READ_ONLY) < p->machine->frames ? entry : NO_MEMORY;
}

uint64_t pyxen_machine_address(const struct pyxen_cpu *p, uint64_t address)
{
    uint32_t entry = map_entry(p, address >> TARGET_PAGE_BITS);

    return entry == NO_MEMORY ? PYXEN_NO_ADDRESS : (uint64_t)(entry & ~READ_ONLY) << TARGET_PAGE_BITS | (address & ~TARGET_PAGE_MASK);
}

uint64_t pyxen_physical(CPUState *cs, uint64_t address, int access, int *prot)
{
    struct pyxen_cpu *p = cs->uc->pyxen;
    uint64_t frame = address >> TARGET_PAGE_BITS;
    bool is_table = !prot; /* of the guest's: its accessed and dirty bits have to be writable */
    uint32_t entry;

    if (likely(!p->physical_map)) {
        if (unlikely(frame >= p->machine->frames)) {
            no_memory(cs, address, is_table ? MMU_DATA_LOAD : access);
        }
        return address;
    }
    entry = map_entry(p, frame);
    if (entry == NO_MEMORY) {
        no_memory(cs, address, is_table ? MMU_DATA_LOAD : access);
    }
    if (entry & READ_ONLY) {
        if (is_table || access == MMU_DATA_STORE) {
            no_memory(cs, address, MMU_DATA_STORE);
        }
        *prot &= ~PAGE_WRITE;
    }
    return (uint64_t)(entry & ~READ_ONLY) << TARGET_PAGE_BITS | (address & ~TARGET_PAGE_MASK);
}

uint64_t pyxen_read_pte(CPUState *cs, uint64_t address)
{
    struct pyxen_machine *m = cs->uc->pyxen->machine;

    return __atomic_load_n((uint64_t *)(m->memory + address), __ATOMIC_RELAXED); /* pyxen_physical has looked */
}

/* Sets the accessed and dirty bits, unless somebody has just changed the entry: then it is no longer ours to write, and read again. */
void pyxen_set_pte_flags(CPUState *cs, uint64_t address, uint32_t value)
{
    struct pyxen_machine *m = cs->uc->pyxen->machine;
    uint32_t *entry = (uint32_t *)(m->memory + address);
    uint32_t old = __atomic_load_n(entry, __ATOMIC_RELAXED);

    while (((old ^ value) & ~(uint32_t)PTE_SET_BY_CPU) == 0) {
        if (__atomic_compare_exchange_n(entry, &old, old | value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            return;
        }
    }
    cs->uc->pyxen->entry_changed = true;
}

bool pyxen_entry_changed(CPUState *cs)
{
    struct pyxen_cpu *p = cs->uc->pyxen;
    bool changed = p->entry_changed;

    p->entry_changed = false;
    return changed;
}
