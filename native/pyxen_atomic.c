/*
 * Locked operations on an operand that lies in two pages. Its two frames are no neighbours in the host's address space, so no locked
 * operation of the host's reaches it: it is copied, changed and copied back while the other CPUs of the domain stand still. Those stop
 * between two blocks, or where they wait; a CPU that is not running must not begin.
 *
 * The hypervisor and backends don't stop. What they write at the same moment to just these octets may be lost, which is between them and
 * the guest: nothing that they share with one lies in two pages.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_gate.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* The same for all CPUs of a domain; without a gate, PV domains can't be told from one another. */
static const void *domain_of(const struct pyxen_cpu *p)
{
    return p->gate ? (const void *)p->gate->domain : p->physical_map ? (const void *)p->physical_map : p->machine;
}

static bool must_stand_still(struct pyxen_cpu *p)
{
    const void *alone = __atomic_load_n(&p->machine->alone, __ATOMIC_SEQ_CST);

    return unlikely(alone) && alone == domain_of(p);
}

/* Where this CPU is about to execute, or waits for others: return when it may. */
void pyxen_stand_still(struct pyxen_cpu *p)
{
    while (must_stand_still(p)) {
        __atomic_store_n(&p->still, true, __ATOMIC_SEQ_CST);
        while (must_stand_still(p)) {
            sched_yield();
        }
        /* Who begins to be alone now has either not seen this yet, or is seen by the next look. */
        __atomic_store_n(&p->still, false, __ATOMIC_SEQ_CST);
    }
}

static void wait_until_still(struct pyxen_cpu *other)
{
    bool still = false;

    pyxen_request(other, PYXEN_REQUEST_WORK);
    while (!still) {
        still = __atomic_load_n(&other->still, __ATOMIC_SEQ_CST);
        if (!still) {
            pthread_mutex_lock(&other->run_lock);
            still = !other->running; /* it looks after it has said that it is */
            pthread_mutex_unlock(&other->run_lock);
        }
        if (!still) {
            sched_yield();
        }
    }
}

static void begin_alone(struct pyxen_cpu *p)
{
    struct pyxen_machine *m = p->machine;
    int i;

    pyxen_begin_question(p);
    __atomic_store_n(&m->alone, domain_of(p), __ATOMIC_SEQ_CST);
    for (i = 0; i < m->used; i++) {
        if (m->cpus[i] && m->cpus[i] != p && domain_of(m->cpus[i]) == domain_of(p)) {
            wait_until_still(m->cpus[i]);
        }
    }
}

static void end_alone(struct pyxen_cpu *p)
{
    p->operand_size = 0;
    __atomic_store_n(&p->machine->alone, NULL, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&p->machine->question_lock);
}

static uint8_t *writable(CPUX86State *env, uint64_t address, int size, int mmu_idx, uintptr_t retaddr)
{
    uint8_t *place = probe_access(env, address, size, MMU_DATA_STORE, mmu_idx, retaddr);

    if (!place) {
        pyxen_internal_error(env, EFAULT, retaddr);
    }
    return place;
}

void *pyxen_operand_in_two_pages(CPUX86State *env, uint64_t address, int size, int mmu_idx, uintptr_t retaddr)
{
    struct pyxen_cpu *p = env->uc->pyxen;
    int in_first = TARGET_PAGE_SIZE - (address & ~TARGET_PAGE_MASK);

    /* Both may fault, while the others still run. After that the translations are known. */
    writable(env, address, in_first, mmu_idx, retaddr);
    writable(env, address + in_first, size - in_first, mmu_idx, retaddr);
    begin_alone(p);
    p->operand_size = size;
    p->operand_in_first = in_first;
    /* Again, since code may have been translated from them meanwhile: it is dropped before anything is written. */
    p->operand_parts[0] = writable(env, address, in_first, mmu_idx, retaddr);
    p->operand_parts[1] = writable(env, address + in_first, size - in_first, mmu_idx, retaddr);
    memcpy(p->operand, p->operand_parts[0], in_first);
    memcpy(p->operand + in_first, p->operand_parts[1], size - in_first);
    return p->operand;
}

void pyxen_operand_done(CPUX86State *env)
{
    struct pyxen_cpu *p = env->uc->pyxen;

    if (unlikely(p->operand_size)) {
        memcpy(p->operand_parts[0], p->operand, p->operand_in_first);
        memcpy(p->operand_parts[1], p->operand + p->operand_in_first, p->operand_size - p->operand_in_first);
        end_alone(p);
    }
}

void pyxen_operand_abandoned(struct pyxen_cpu *p)
{
    if (unlikely(p->operand_size)) {
        end_alone(p);
    }
}
