/*
 * Emulated writes to page tables: a PV guest's kernel writes an entry of an L1 table through its read-only mapping.
 *
 * src/pyxen/hypervisor/page_table_writes.py is the reference. It decodes an instruction when it meets it for the first time, and leaves
 * it in the domain's block; here the same octets at the same place are carried out again, or nothing is touched and Python's way does it.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_frames.h"
#include "pyxen_gate.h"
#include "pyxen_internal.h"

/* page_table_writes.py: NATIVE */
enum { OPERATION_MOV, OPERATION_XCHG, OPERATION_CMPXCHG, OPERATION_AND, OPERATION_OR, OPERATION_BTS, OPERATION_BTR };

#define VMASST_WRITABLE_PAGETABLES (1 << 2)
#define ARITHMETIC_FLAGS (CC_C | CC_P | CC_A | CC_Z | CC_S | CC_O)

/* The entry that is written, and the part of it that the instruction names. */
struct target {
    uint64_t machine, old;
    unsigned shift, bits;
    uint64_t mask;
};

static uint64_t result_flags(const struct target *t, uint64_t result)
{
    return (__builtin_parity(result & 0xff) ? 0 : CC_P) | (result ? 0 : CC_Z) | (result >> (t->bits - 1) & 1 ? CC_S : 0);
}

static uint64_t subtraction_flags(const struct target *t, uint64_t left, uint64_t right)
{
    uint64_t result = (left - right) & t->mask;

    return result_flags(t, result) | (left < right ? CC_C : 0) | ((left ^ right ^ result) & CC_A) |
           ((left ^ right) & (left ^ result) & 1ull << (t->bits - 1) ? CC_O : 0);
}

/* As an instruction of that width leaves it. */
static void set_register(CPUX86State *env, unsigned number, const struct target *t, unsigned shift, uint64_t value)
{
    env->regs[number] = t->bits >= 32 ? value : (env->regs[number] & ~(t->mask << shift)) | value << shift;
}

static const struct pyxen_gate_write *find_write(struct pyxen_cpu *p, const CPUX86State *env)
{
    const struct pyxen_gate_write *known = &p->gate->domain->writes[env->eip % PYXEN_GATE_WRITES];
    const uint8_t *code;

    if (!known->length || env->eflags & TF_MASK) {
        return NULL;
    }
    code = pyxen_translate(p, p->gate->kernel_root, env->eip, false, known->length);
    return code && !memcmp(code, known->code, known->length) ? known : NULL;
}

/* False: the page is none of the domain's L1 tables. */
static bool find_target(struct pyxen_paging *w, uint64_t address, struct target *t)
{
    const struct pyxen_frames *f = w->frames;
    uint64_t place = pyxen_l1_entry_address(w, address), mapping, mfn;

    if (!place) {
        return false;
    }
    mapping = *(uint64_t *)(w->machine->memory + place);
    mfn = (mapping & 0x000ffffffffff000ull) >> 12;
    if (!(mapping & PG_PRESENT_MASK) || mfn >= w->machine->frames || !f->type_counts[mfn] || f->types[mfn] != PYXEN_TYPE_L1 ||
        f->owners[mfn] != w->gate->domain->domid) {
        return false;
    }
    t->machine = mfn << 12 | (address & 0xff8);
    t->old = __atomic_load_n((uint64_t *)(w->machine->memory + t->machine), __ATOMIC_RELAXED);
    return true;
}

static bool store(struct pyxen_paging *w, const struct target *t, uint64_t value)
{
    return pyxen_exchange_entry(w, t->machine, t->old, (t->old & ~(t->mask << t->shift)) | value << t->shift);
}

static bool carry_out(struct pyxen_paging *w, CPUX86State *env, const struct pyxen_gate_write *known, struct target t)
{
    bool has_register = known->source < CPU_NB_REGS;
    uint64_t source = has_register ? env->regs[known->source] >> known->source_shift : known->immediate, old, result, bit;
    uint64_t accumulator, flags = env->eflags & ~(uint64_t)ARITHMETIC_FLAGS;
    unsigned offset = env->cr[2] & 7;

    if (offset + known->size > 8) {
        return false;
    }
    t.shift = 8 * offset;
    t.bits = 8 * known->size;
    t.mask = known->size == 8 ? ~0ull : (1ull << t.bits) - 1;
    source &= t.mask;
    old = t.old >> t.shift & t.mask;
    bit = 1ull << (source & (t.bits - 1));
    switch (known->operation) {
    case OPERATION_MOV:
        return store(w, &t, source);
    case OPERATION_XCHG:
        if (!has_register || !store(w, &t, source)) {
            return false;
        }
        set_register(env, known->source, &t, known->source_shift, old);
        return true;
    case OPERATION_CMPXCHG:
        accumulator = env->regs[R_EAX] & t.mask;
        if (accumulator != old) {
            set_register(env, R_EAX, &t, 0, old);
        } else if (!store(w, &t, source)) {
            return false;
        }
        env->eflags = flags | subtraction_flags(&t, accumulator, old);
        return true;
    case OPERATION_AND:
    case OPERATION_OR:
        result = known->operation == OPERATION_AND ? old & source : old | source;
        if (!store(w, &t, result)) {
            return false;
        }
        env->eflags = flags | result_flags(&t, result);
        return true;
    case OPERATION_BTS:
    case OPERATION_BTR:
        if (!store(w, &t, known->operation == OPERATION_BTS ? old | bit : old & ~bit)) {
            return false;
        }
        env->eflags = (env->eflags & ~(uint64_t)CC_C) | (old & bit ? CC_C : 0);
        return true;
    default:
        return false;
    }
}

enum pyxen_table_write pyxen_emulate_table_write(struct pyxen_cpu *p, CPUX86State *env)
{
    enum pyxen_table_write outcome = PYXEN_NO_TABLE;
    const struct pyxen_gate_write *known;
    struct pyxen_paging w;
    struct target target;

    if (!(p->gate->domain->vm_assist & VMASST_WRITABLE_PAGETABLES)) {
        return PYXEN_NO_TABLE;
    }
    if (!pyxen_begin_paging(p, &w)) {
        return PYXEN_TABLE_UNKNOWN;
    }
    if (find_target(&w, env->cr[2], &target)) {
        known = find_write(p, env);
        outcome = PYXEN_TABLE_UNKNOWN;
        if (known && carry_out(&w, env, known, target)) {
            env->eip += known->length;
            env->eflags &= ~(uint64_t)RF_MASK;
            p->gate->table_writes++;
            outcome = PYXEN_TABLE_WRITTEN;
        }
    }
    pyxen_end_paging(&w);
    return outcome;
}
