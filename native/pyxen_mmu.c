/*
 * The hypercalls by which a PV guest manages its memory, and multicalls of them and of others that the gate knows.
 *
 * src/pyxen/hypervisor/{mmu_ops,multicall,address_space}.py are the reference. A list goes as far as its elements are plain; then the
 * registers (or the entry of a multicall) are as after a preemption, and Python goes on from there. Whatever is refused is refused by it.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_frames.h"
#include "pyxen_gate.h"
#include "pyxen_internal.h"

enum { MMU_UPDATE = 1, MULTICALL = 13, UPDATE_VA_MAPPING = 14, MMUEXT_OP = 26 };
enum { MMU_NORMAL_PT_UPDATE = 0, MMU_PT_UPDATE_PRESERVE_AD = 2, MMU_PT_UPDATE_NO_TRANSLATE = 3 };
enum { UVMF_TLB_FLUSH = 1, UVMF_INVLPG = 2, UVMF_FLUSHTYPE_MASK = 3, UVMF_LOCAL = 0, UVMF_ALL = 4 };
enum {
    MMUEXT_PIN_L1_TABLE = 0, MMUEXT_PIN_L4_TABLE = 3, MMUEXT_UNPIN_TABLE = 4, MMUEXT_NEW_BASEPTR = 5, MMUEXT_TLB_FLUSH_LOCAL = 6,
    MMUEXT_INVLPG_LOCAL = 7, MMUEXT_TLB_FLUSH_MULTI = 8, MMUEXT_INVLPG_MULTI = 9, MMUEXT_TLB_FLUSH_ALL = 10, MMUEXT_INVLPG_ALL = 11,
    MMUEXT_NEW_USER_BASEPTR = 15
};

#define DOMID_SELF 0x7ff0
#define ARGUMENTS 6

/* mmu_ops.py, preemption.py */
#define COUNT_MASK 0x7fffffffu
#define PREEMPTED 0x80000000u
#define BUDGET 512

enum outcome {
    DONE,
    AGAIN, /* it is to be executed once more, with the arguments that it has now */
    LATER, /* by Python, with those */
};

struct call {
    uint64_t number;
    uint64_t arguments[ARGUMENTS];
    uint64_t result;
};

typedef bool (*operation)(struct pyxen_paging *w, const uint64_t *element);

static bool copy(struct pyxen_cpu *p, uint64_t address, void *data, unsigned size, bool write)
{
    uint8_t *octets = data;

    while (size) {
        unsigned piece = MIN(size, 4096 - (address & 0xfff));
        uint8_t *place = pyxen_translate(p, p->gate->kernel_root, address, write, piece);

        if (!place) {
            return false;
        }
        if (write) {
            memcpy(place, octets, piece);
            pyxen_frame_written(p, (place - p->machine->memory) >> 12);
        } else {
            memcpy(octets, place, piece);
        }
        address += piece;
        octets += piece;
        size -= piece;
    }
    return true;
}

static CPUX86State *registers(struct pyxen_paging *w)
{
    return w->caller->uc->cpu->env_ptr;
}

/* ------------------------------------------------------------------ flushes */

static bool each_vcpu(const struct pyxen_gate *gate, uint64_t unused)
{
    return true;
}

static bool one_vcpu(const struct pyxen_gate *gate, uint64_t which)
{
    return gate == (struct pyxen_gate *)which;
}

static bool in_bitmap(const struct pyxen_gate *gate, uint64_t bitmap)
{
    return gate->vcpu_id < 64 && bitmap >> gate->vcpu_id & 1;
}

static bool flush_self(struct pyxen_paging *w)
{
    return pyxen_flush_vcpus(w, one_vcpu, (uint64_t)w->gate);
}

/* mmu_ops._vcpu_set: a word of the bitmap has as many as Python is not needed for. */
static bool flush_some(struct pyxen_paging *w, uint64_t address)
{
    uint64_t bitmap;

    return w->gate->domain->vcpus <= 64 && copy(w->caller, address, &bitmap, sizeof(bitmap), false) &&
           pyxen_flush_vcpus(w, in_bitmap, bitmap);
}

static void forget_page(struct pyxen_paging *w, uint64_t address)
{
    tlb_flush_page(w->caller->uc->cpu, address);
}

/* ------------------------------------------------------------------ elements of lists */

/* mmu_ops._update_one, of entries of page tables, and of frames that are none yet: Linux fills those so before it pins them. */
static bool update_one(struct pyxen_paging *w, const uint64_t *element)
{
    const struct pyxen_frames *f = w->frames;
    unsigned command = element[0] & 7;
    uint64_t machine = element[0] & ~7ull, mfn = machine >> 12;

    if (command != MMU_NORMAL_PT_UPDATE && command != MMU_PT_UPDATE_PRESERVE_AD && command != MMU_PT_UPDATE_NO_TRANSLATE) {
        return false;
    }
    if (!pyxen_may_refer_to(w, mfn)) {
        return false;
    }
    if (!f->type_counts[mfn] || f->types[mfn] > PYXEN_TYPE_L4) {
        return pyxen_write_word(w, machine, element[1]);
    }
    return pyxen_write_entry(w, machine, element[1], command == MMU_PT_UPDATE_PRESERVE_AD);
}

/* FrameTable.pin and unpin. */
static bool pin(struct pyxen_paging *w, uint64_t mfn, unsigned level)
{
    if (!pyxen_get_page_and_type(w, mfn, level)) {
        return false;
    }
    if (w->frames->flags[mfn] & PYXEN_FLAG_PINNED) {
        pyxen_undo_page_and_type(w, mfn);
        return false;
    }
    w->frames->flags[mfn] |= PYXEN_FLAG_PINNED;
    return true;
}

static bool unpin(struct pyxen_paging *w, uint64_t mfn)
{
    if (!pyxen_may_refer_to(w, mfn) || !(w->frames->flags[mfn] & PYXEN_FLAG_PINNED) || !pyxen_put_page_and_type(w, mfn)) {
        return false;
    }
    w->frames->flags[mfn] &= ~PYXEN_FLAG_PINNED;
    return true;
}

/* AddressSpaces.new_kernel_root and new_user_root. */
static bool new_root(struct pyxen_paging *w, uint64_t *root, uint64_t mfn)
{
    uint64_t old = *root >> 12;

    if (old != mfn) {
        if (mfn && !pyxen_get_page_and_type(w, mfn, PYXEN_TYPE_L4)) {
            return false;
        }
        if (old && !pyxen_put_page_and_type(w, old)) {
            if (mfn) {
                pyxen_undo_page_and_type(w, mfn);
            }
            return false;
        }
        *root = mfn << 12;
    }
    return flush_self(w);
}

static bool extended_one(struct pyxen_paging *w, const uint64_t *element)
{
    uint32_t command = element[0];

    switch (command) {
    case MMUEXT_PIN_L1_TABLE ... MMUEXT_PIN_L4_TABLE:
        return pin(w, element[1], command - MMUEXT_PIN_L1_TABLE + PYXEN_TYPE_L1);
    case MMUEXT_UNPIN_TABLE:
        return unpin(w, element[1]);
    case MMUEXT_NEW_BASEPTR:
        if (!element[1] || !new_root(w, &w->gate->kernel_root, element[1])) {
            return false;
        }
        pyxen_set_root(w->caller, registers(w), w->gate->kernel_root);
        return true;
    case MMUEXT_NEW_USER_BASEPTR:
        return new_root(w, &w->gate->user_root, element[1]);
    case MMUEXT_TLB_FLUSH_LOCAL:
        return flush_self(w);
    case MMUEXT_INVLPG_LOCAL:
        forget_page(w, element[1]);
        return true;
    case MMUEXT_TLB_FLUSH_MULTI:
    case MMUEXT_INVLPG_MULTI:
        return flush_some(w, element[2]);
    case MMUEXT_TLB_FLUSH_ALL:
    case MMUEXT_INVLPG_ALL:
        return pyxen_flush_vcpus(w, each_vcpu, 0);
    default:
        return false;
    }
}

/* ------------------------------------------------------------------ hypercalls */

static bool is_own(const struct pyxen_paging *w, uint64_t domid)
{
    return domid == DOMID_SELF || domid == w->gate->domain->domid;
}

/* mmu_ops._each. */
static enum outcome serve_list(struct pyxen_paging *w, struct call *c, unsigned size, operation operate)
{
    uint64_t *a = c->arguments, element[3];
    uint32_t count = a[1] & COUNT_MASK, done = 0, reported, earlier = 0, foreign = a[3];

    if (!is_own(w, foreign & 0xffff) || (foreign >> 16 && !is_own(w, (foreign >> 16) - 1))) {
        return LATER;
    }
    if (a[2]) {
        if (!copy(w->caller, a[2], &reported, sizeof(reported), false)) {
            return LATER;
        }
        earlier = a[1] & PREEMPTED ? reported : 0;
    }
    while (done < count && done < BUDGET && w->tables > 0 && copy(w->caller, a[0], element, size, false) && operate(w, element)) {
        a[0] += size;
        done++;
    }
    if (done < count && !done) {
        return LATER;
    }
    reported = earlier + done;
    if (a[2]) {
        copy(w->caller, a[2], &reported, sizeof(reported), true); /* where that can't be written, what is done is done */
    }
    if (done == count) {
        return DONE;
    }
    a[1] = (count - done) | PREEMPTED;
    return done == BUDGET || w->tables <= 0 ? AGAIN : LATER;
}

uint64_t pyxen_l1_entry_address(struct pyxen_paging *w, uint64_t address)
{
    uint64_t table = w->gate->kernel_root;
    int shift;

    if (!pyxen_is_guest_address(address)) {
        return 0;
    }
    for (shift = 39; shift > 12; shift -= 9) {
        uint64_t entry = *(uint64_t *)(w->machine->memory + table + (address >> shift & 0x1ff) * 8);

        if (!(entry & PG_PRESENT_MASK)) {
            return 0;
        }
        table = entry & 0x000ffffffffff000ull;
    }
    return table + (address >> 12 & 0x1ff) * 8;
}

/* mmu_ops.update_va_mapping, with a flush of the caller alone. */
static enum outcome update_va_mapping(struct pyxen_paging *w, struct call *c)
{
    uint64_t address = c->arguments[0], flags = c->arguments[2], kind = flags & UVMF_FLUSHTYPE_MASK;
    uint64_t where = flags & ~(uint64_t)UVMF_FLUSHTYPE_MASK, place = pyxen_l1_entry_address(w, address);
    bool flushes = kind == UVMF_TLB_FLUSH || kind == UVMF_INVLPG;

    if (!place || w->frames->types[place >> 12] != PYXEN_TYPE_L1 || (flushes && where != UVMF_LOCAL) ||
        !pyxen_write_entry(w, place, c->arguments[1], false)) {
        return LATER;
    }
    if (kind == UVMF_TLB_FLUSH) {
        flush_self(w);
    } else if (flushes) {
        forget_page(w, address);
    }
    return DONE;
}

static enum outcome serve(struct pyxen_paging *w, struct call *c, bool inside);

/* multicall._work: a list counts as its elements. */
static unsigned work_of(const struct call *c)
{
    return c->number == MMU_UPDATE || c->number == MMUEXT_OP ? 1 + MIN(c->arguments[1] & COUNT_MASK, BUDGET) : 1;
}

/* multicall.multicall. */
static enum outcome multicall(struct pyxen_paging *w, struct call *c)
{
    struct {
        uint64_t number, result, arguments[ARGUMENTS];
    } entry;
    uint64_t *address = &c->arguments[0];
    uint32_t count = c->arguments[1], done;
    unsigned work = 0;

    for (done = 0; done < count; done++) {
        struct call inner;
        enum outcome outcome;

        if (!copy(w->caller, *address, &entry, sizeof(entry), false)) {
            return LATER;
        }
        inner.number = entry.number;
        memcpy(inner.arguments, entry.arguments, sizeof(inner.arguments));
        work += work_of(&inner);
        if (done && (work > BUDGET || w->tables <= 0)) {
            return AGAIN;
        }
        outcome = serve(w, &inner, true);
        if (outcome == DONE) {
            if (!copy(w->caller, *address + sizeof(uint64_t), &inner.result, sizeof(inner.result), true)) {
                c->result = -EFAULT;
                return DONE;
            }
            *address += sizeof(entry);
            c->arguments[1] = count - done - 1;
            continue;
        }
        if (memcmp(inner.arguments, entry.arguments, sizeof(inner.arguments)) &&
            !copy(w->caller, *address + offsetof(typeof(entry), arguments), inner.arguments, 4 * sizeof(uint64_t), true)) {
            w->gate->hypercalls[inner.number] += outcome == LATER;
            c->result = -EFAULT;
            return DONE;
        }
        return outcome;
    }
    c->result = 0;
    return DONE;
}

static enum outcome serve(struct pyxen_paging *w, struct call *c, bool inside)
{
    enum outcome outcome = LATER;

    c->result = 0;
    switch (c->number) {
    case MMU_UPDATE:
        outcome = serve_list(w, c, 16, update_one);
        break;
    case MMUEXT_OP:
        outcome = serve_list(w, c, 24, extended_one);
        break;
    case UPDATE_VA_MAPPING:
        outcome = update_va_mapping(w, c);
        break;
    case MULTICALL:
        outcome = inside ? LATER : multicall(w, c);
        break;
    default:
        return pyxen_register_hypercall(w->caller, registers(w), c->number, c->arguments, &c->result) ? DONE : LATER;
    }
    w->gate->hypercalls[c->number] += outcome != LATER;
    return outcome;
}

bool pyxen_begin_paging(struct pyxen_cpu *p, struct pyxen_paging *w)
{
    if (!pyxen_lock_try_shortly(&p->machine->hypervisor)) {
        return false;
    }
    if (p->gate->domain->exclusive) {
        pyxen_lock_release(&p->machine->hypervisor);
        return false;
    }
    *w = (struct pyxen_paging){ p->machine, p->gate->domain->frames, p->gate, p, PYXEN_TABLES_AT_ONCE };
    return true;
}

void pyxen_end_paging(struct pyxen_paging *w)
{
    struct pyxen_cpu *p = w->caller;

    if (p->state->dirty & PYXEN_DIRTY_FLUSH_TLB) {
        tlb_flush(p->uc->cpu);
        p->state->dirty &= ~PYXEN_DIRTY_FLUSH_TLB;
    }
    pyxen_lock_release(&p->machine->hypervisor);
}

/* The hypercall in the registers. False: Python's, with the registers as they are now. */
bool pyxen_paging_hypercall(struct pyxen_cpu *p, CPUX86State *env)
{
    struct call c = { env->regs[R_EAX], { env->regs[R_EDI], env->regs[R_ESI], env->regs[R_EDX], env->regs[10] } };
    struct pyxen_paging w;
    enum outcome outcome;

    if (!pyxen_begin_paging(p, &w)) {
        return false;
    }
    outcome = serve(&w, &c, false);
    pyxen_end_paging(&w);
    if (outcome != DONE) {
        env->regs[R_EDI] = c.arguments[0];
        env->regs[R_ESI] = c.arguments[1];
    }
    if (outcome == LATER) {
        return false;
    }
    env->regs[R_ECX] = env->eip;
    env->regs[11] = env->eflags;
    if (outcome == AGAIN) {
        env->eip -= p->state->instruction_length;
    } else {
        env->regs[R_EAX] = c.result;
    }
    return true;
}
