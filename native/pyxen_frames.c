/*
 * Reference counts and types of frames, and the page tables that hold such references, in C.
 *
 * src/pyxen/hypervisor/{frame_table,page_tables}.py are the reference and say what the rules are for. What is here does what they do, or
 * leaves counts, types and tables as they were: for what they would refuse, log, free, or have to stop a vCPU for. The caller holds the
 * hypervisor's lock, so nothing but the accessed and dirty bits of entries changes meanwhile.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"

#include "pyxen_cpu.h"
#include "pyxen_frames.h"
#include "pyxen_internal.h"

#define ENTRIES 512
#define PRESENT 1ull
#define RW 2ull
#define USER 4ull
#define ACCESSED_DIRTY 0x60ull
#define ADDRESS 0x000ffffffffff000ull
#define GRANTED (1ull << 62)
#define DISALLOWED 0x198ull
#define L1_DISALLOWED (0x98ull | GRANTED)
#define FIRST_XEN_SLOT 256
#define LAST_XEN_SLOT 271
#define M2P_SLOT 256
#define PER_DOMAIN_SLOT 260

static bool is_xens(unsigned level, unsigned slot)
{
    return level == PYXEN_TYPE_L4 && slot >= FIRST_XEN_SLOT && slot <= LAST_XEN_SLOT;
}

static uint64_t frame_of(uint64_t entry)
{
    return (entry & ADDRESS) >> 12;
}

static uint64_t *table_at(struct pyxen_paging *w, uint64_t mfn)
{
    return (uint64_t *)(w->machine->memory + (mfn << 12));
}

/* Vcpu.request_flush of those wanted: AddressSpaces.flush_others and flush_stale. By a vCPU, those in the guest need not leave it. */
bool pyxen_flush_vcpus(struct pyxen_paging *w, bool (*wanted)(const struct pyxen_gate *gate, uint64_t argument), uint64_t argument)
{
    struct pyxen_gate *gate = w->gate;

    do {
        if (wanted(gate, argument)) {
            if (!gate->in_guest || gate->cpu == w->caller) {
                gate->cpu->state->dirty |= PYXEN_DIRTY_FLUSH_TLB;
            } else if (!w->caller || !pyxen_flush_remotely(w->caller, gate->cpu)) {
                return false;
            }
            gate->flush_clock = ++w->frames->clock;
            gate->flushes++;
        }
        gate = gate->next;
    } while (gate != w->gate);
    return true;
}

static bool may_know(const struct pyxen_gate *gate, uint64_t stamp)
{
    return gate->flush_clock <= stamp;
}

bool pyxen_may_refer_to(const struct pyxen_paging *w, uint64_t mfn)
{
    const struct pyxen_frames *f = w->frames;

    return mfn < w->machine->frames && f->owners[mfn] == w->gate->domain->domid && f->counts[mfn] && f->counts[mfn] < UINT32_MAX;
}

static bool put_page(struct pyxen_paging *w, uint64_t mfn)
{
    if (w->frames->counts[mfn] == 1) {
        return false; /* and free it */
    }
    w->frames->counts[mfn]--;
    return true;
}

static void clear_xens(struct pyxen_paging *w, uint64_t mfn)
{
    memset(&table_at(w, mfn)[FIRST_XEN_SLOT], 0, (LAST_XEN_SLOT + 1 - FIRST_XEN_SLOT) * sizeof(uint64_t));
}

static void set_xens(struct pyxen_paging *w, uint64_t mfn)
{
    clear_xens(w, mfn);
    table_at(w, mfn)[M2P_SLOT] = w->frames->m2p_entry;
    table_at(w, mfn)[PER_DOMAIN_SLOT] = w->gate->domain->per_domain_entry;
}

static bool validate(struct pyxen_paging *w, uint64_t mfn, unsigned level);
static bool devalidate(struct pyxen_paging *w, uint64_t mfn, unsigned level);
static void retake_entries(struct pyxen_paging *w, unsigned level, uint64_t table, unsigned count);

static bool get_type(struct pyxen_paging *w, uint64_t mfn, unsigned type)
{
    struct pyxen_frames *f = w->frames;

    if (f->type_counts[mfn]) {
        if (f->types[mfn] != type || f->type_counts[mfn] >= UINT32_MAX) {
            return false;
        }
        f->type_counts[mfn]++;
        return true;
    }
    if (f->types[mfn] != type) {
        if (f->types[mfn] && !pyxen_flush_vcpus(w, may_know, f->stamps[mfn])) {
            return false;
        }
        f->types[mfn] = type;
    }
    f->type_counts[mfn] = 1;
    if (type != PYXEN_TYPE_WRITABLE && !validate(w, mfn, type)) {
        f->type_counts[mfn] = 0;
        f->types[mfn] = 0;
        return false;
    }
    return true;
}

static bool put_type(struct pyxen_paging *w, uint64_t mfn)
{
    struct pyxen_frames *f = w->frames;

    if (f->type_counts[mfn] == 1) {
        if (f->types[mfn] != PYXEN_TYPE_WRITABLE && !devalidate(w, mfn, f->types[mfn])) {
            return false;
        }
        f->stamps[mfn] = f->clock;
    }
    f->type_counts[mfn]--;
    return true;
}

/* Undoes put_type, whose mark of when the frame was given up stays: it only makes a later flush likelier. */
static void retake_type(struct pyxen_paging *w, uint64_t mfn)
{
    if (w->frames->type_counts[mfn]++ == 0 && w->frames->types[mfn] <= PYXEN_TYPE_L4) {
        retake_entries(w, w->frames->types[mfn], mfn, ENTRIES);
        if (w->frames->types[mfn] == PYXEN_TYPE_L4) {
            set_xens(w, mfn); /* it may be in use until Python's way has come to its end */
        }
    }
}

bool pyxen_get_page_and_type(struct pyxen_paging *w, uint64_t mfn, unsigned type)
{
    if (!pyxen_may_refer_to(w, mfn)) {
        return false;
    }
    w->frames->counts[mfn]++;
    if (!get_type(w, mfn, type)) {
        w->frames->counts[mfn]--;
        return false;
    }
    return true;
}

bool pyxen_put_page_and_type(struct pyxen_paging *w, uint64_t mfn)
{
    if (!put_type(w, mfn)) {
        return false;
    }
    if (!put_page(w, mfn)) {
        retake_type(w, mfn);
        return false;
    }
    return true;
}

void pyxen_undo_page_and_type(struct pyxen_paging *w, uint64_t mfn)
{
    int tables = w->tables;

    w->tables = INT_MAX; /* what was taken can be dropped, whatever the work has come to */
    pyxen_put_page_and_type(w, mfn);
    w->tables = tables;
}

/* ------------------------------------------------------------------ one entry */

static bool has_good_flags(unsigned level, uint64_t table, uint64_t entry)
{
    return !(entry & (level == PYXEN_TYPE_L1 ? L1_DISALLOWED : DISALLOWED)) &&
           (level == PYXEN_TYPE_L1 || frame_of(entry) != table || !(entry & RW));
}

static bool get_entry(struct pyxen_paging *w, unsigned level, uint64_t table, uint64_t entry)
{
    uint64_t mfn = frame_of(entry);

    if (!has_good_flags(level, table, entry)) {
        return false;
    }
    if (level > PYXEN_TYPE_L1) {
        return mfn == table || pyxen_get_page_and_type(w, mfn, level - 1);
    }
    if (!pyxen_may_refer_to(w, mfn) || ((entry & RW) && !get_type(w, mfn, PYXEN_TYPE_WRITABLE))) {
        return false;
    }
    w->frames->counts[mfn]++;
    return true;
}

static bool put_entry(struct pyxen_paging *w, unsigned level, uint64_t table, uint64_t entry)
{
    uint64_t mfn = frame_of(entry);

    if (level > PYXEN_TYPE_L1) {
        return mfn == table || (w->frames->types[mfn] == level - 1 && pyxen_put_page_and_type(w, mfn)); /* else a linear entry */
    }
    return !(entry & GRANTED) && (entry & RW ? pyxen_put_page_and_type(w, mfn) : put_page(w, mfn));
}

/* Undoes put_entry. */
static void retake_entry(struct pyxen_paging *w, unsigned level, uint64_t table, uint64_t entry)
{
    uint64_t mfn = frame_of(entry);

    if (level == PYXEN_TYPE_L1 || mfn != table) {
        w->frames->counts[mfn]++;
        if (level > PYXEN_TYPE_L1 || (entry & RW)) {
            retake_type(w, mfn);
        }
    }
}

/* The same of a table's first entries, all of which were good enough once. */
static void retake_entries(struct pyxen_paging *w, unsigned level, uint64_t table, unsigned count)
{
    unsigned slot;

    for (slot = 0; slot < count; slot++) {
        uint64_t entry = table_at(w, table)[slot];

        if ((entry & PRESENT) && !is_xens(level, slot)) {
            retake_entry(w, level, table, entry);
        }
    }
}

/* Drop the first entries' references again: taken just now, so nothing is in the way. */
static void undo_get(struct pyxen_paging *w, unsigned level, uint64_t table, const uint64_t *entries, unsigned count)
{
    int tables = w->tables;
    unsigned slot;

    w->tables = INT_MAX;
    for (slot = 0; slot < count; slot++) {
        if ((entries[slot] & PRESENT) && !is_xens(level, slot)) {
            put_entry(w, level, table, entries[slot]);
        }
    }
    w->tables = tables;
}

/* PageTables.write_entry. The old entry's references go before it is replaced, which nobody sees under the lock. `exactly`: not if another
 * vCPU's page walk has just set accessed or dirty bits in `old`; else, of those, the ones in `kept` are not lost. */
static bool replace_entry(struct pyxen_paging *w, uint64_t address, uint64_t old, uint64_t entry, uint64_t kept, bool exactly)
{
    uint64_t *place = (uint64_t *)(w->machine->memory + address), table = address >> 12;
    unsigned level = w->frames->types[table];
    bool takes;

    if (is_xens(level, address >> 3 & (ENTRIES - 1)) || (old & PRESENT && level == PYXEN_TYPE_L1 && old & GRANTED)) {
        return false;
    }
    entry |= old & kept;
    if (entry & PRESENT) {
        entry |= USER;
    }
    takes = !(old & entry & PRESENT) || ((old ^ entry) & (ADDRESS | RW));
    if ((entry & PRESENT) && !(takes ? get_entry(w, level, table, entry) : has_good_flags(level, table, entry))) {
        return false;
    }
    if ((old & PRESENT) && takes && !put_entry(w, level, table, old)) {
        if (entry & PRESENT) {
            undo_get(w, level, table, &entry, 1);
        }
        return false;
    }
    if (!(old & PRESENT)) {
        __atomic_store_n(place, entry, __ATOMIC_SEQ_CST);
        return true;
    }
    while (!__atomic_compare_exchange_n(place, &old, entry, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
        if (exactly) {
            if (takes) {
                retake_entry(w, level, table, old);
            }
            if (takes && (entry & PRESENT)) {
                undo_get(w, level, table, &entry, 1);
            }
            return false;
        }
        entry |= old & kept;
    }
    return true;
}

bool pyxen_write_entry(struct pyxen_paging *w, uint64_t address, uint64_t entry, bool preserve_accessed)
{
    uint64_t old = __atomic_load_n((uint64_t *)(w->machine->memory + address), __ATOMIC_RELAXED);

    return replace_entry(w, address, old, entry, preserve_accessed ? ACCESSED_DIRTY : 0, false);
}

bool pyxen_write_word(struct pyxen_paging *w, uint64_t address, uint64_t value)
{
    uint64_t mfn = address >> 12;

    if (!get_type(w, mfn, PYXEN_TYPE_WRITABLE)) {
        return false;
    }
    __atomic_store_n((uint64_t *)(w->machine->memory + address), value, __ATOMIC_RELAXED);
    pyxen_frame_written(w->caller, mfn);
    return put_type(w, mfn);
}

bool pyxen_exchange_entry(struct pyxen_paging *w, uint64_t address, uint64_t old, uint64_t entry)
{
    return replace_entry(w, address, old, entry, 0, true);
}

/* ------------------------------------------------------------------ whole tables */

static bool validate(struct pyxen_paging *w, uint64_t mfn, unsigned level)
{
    uint64_t *table = table_at(w, mfn), entries[ENTRIES];
    unsigned slot;

    if (level > PYXEN_TYPE_L4 || --w->tables < 0) {
        return false;
    }
    memcpy(entries, table, sizeof(entries)); /* what is checked is what is used */
    for (slot = 0; slot < ENTRIES; slot++) {
        if ((entries[slot] & PRESENT) && !is_xens(level, slot) && !get_entry(w, level, mfn, entries[slot])) {
            undo_get(w, level, mfn, entries, slot);
            return false;
        }
    }
    for (slot = 0; slot < ENTRIES; slot++) {
        if (entries[slot] & PRESENT) {
            table[slot] = entries[slot] | USER;
        }
    }
    if (level == PYXEN_TYPE_L4) {
        set_xens(w, mfn);
    }
    return true;
}

static bool devalidate(struct pyxen_paging *w, uint64_t mfn, unsigned level)
{
    uint64_t *table = table_at(w, mfn);
    unsigned slot;

    if (level > PYXEN_TYPE_L4 || --w->tables < 0) {
        return false;
    }
    for (slot = 0; slot < ENTRIES; slot++) {
        if ((table[slot] & PRESENT) && !is_xens(level, slot) && !put_entry(w, level, mfn, table[slot])) {
            retake_entries(w, level, mfn, slot);
            return false;
        }
    }
    if (level == PYXEN_TYPE_L4) {
        clear_xens(w, mfn);
    }
    return true;
}

PYXEN_EXPORT int pyxen_frames_table(struct pyxen_gate *gate, uint64_t mfn, uint32_t level, int validates)
{
    struct pyxen_paging w = { gate->cpu->machine, gate->domain->frames, gate, NULL, PYXEN_TABLES_AT_ONCE };

    return validates ? validate(&w, mfn, level) : devalidate(&w, mfn, level);
}
