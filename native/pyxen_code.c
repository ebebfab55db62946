/*
 * Which frames hold translated code, and how stores to them are noticed: by the CPU that translated them, whichever address the
 * store goes through, and by the other CPUs of the machine, each of which has a cache of translations of its own.
 *
 * Every CPU's TLB sends stores to a frame through pyxen_write_clean_frame() as long as any CPU holds code of that frame. A CPU that
 * begins to hold code of a frame which another CPU can store to unchecked asks that CPU to stop doing so, and waits for the answer before
 * it reads the first octet. A store to a frame that others hold code of is made by a block of its own, at whose end they hear of it: before
 * anything else that the storing CPU does can be seen. They act on it at the start of their next block. So whoever sees a later store, and
 * then executes a serialising instruction (which ends a block), runs the new code.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cputlb.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* How often another CPU is looked at for a flush: a millisecond or two. */
#define FLUSH_LOOKS 2000

void tb_invalidate_phys_range(struct uc_struct *uc, ram_addr_t start, ram_addr_t end);

PYXEN_EXPORT struct pyxen_machine *pyxen_machine_new(void *memory, uint64_t bytes)
{
    struct pyxen_machine *m = calloc(1, sizeof(*m));

    if (!m) {
        return NULL;
    }
    m->references = 1;
    m->memory = memory;
    m->bytes = bytes;
    m->frames = bytes >> TARGET_PAGE_BITS;
    m->code_holders = calloc(m->frames, sizeof(*m->code_holders));
    m->writers = calloc(m->frames, sizeof(*m->writers));
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->question_lock, NULL);
    if (!m->code_holders || !m->writers) {
        pyxen_machine_free(m);
        return NULL;
    }
    return m;
}

PYXEN_EXPORT void pyxen_machine_free(struct pyxen_machine *m)
{
    pyxen_machine_put(m);
}

void pyxen_machine_put(struct pyxen_machine *m)
{
    if (__atomic_sub_fetch(&m->references, 1, __ATOMIC_ACQ_REL) != 0) {
        return;
    }
    while (m->dead) {
        struct pyxen_cpu *p = m->dead;

        m->dead = p->next_dead;
        free(p);
    }
    pthread_mutex_destroy(&m->question_lock);
    pthread_mutex_destroy(&m->lock);
    free(m->code_holders);
    free(m->writers);
    free(m);
}

PYXEN_EXPORT void pyxen_machine_set_clock(struct pyxen_machine *m, uint64_t tsc, uint64_t ns, uint64_t multiplier)
{
    m->clock_tsc = tsc;
    m->clock_ns = ns;
    m->clock_multiplier = multiplier;
}

PYXEN_EXPORT int pyxen_machine_has_code(struct pyxen_machine *m, uint64_t mfn)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the caller's stores come first: who reads code counts itself in before it reads */
    return mfn < m->frames && __atomic_load_n(&m->code_holders[mfn], __ATOMIC_SEQ_CST) != 0;
}

PYXEN_EXPORT uint64_t pyxen_machine_set_bits(struct pyxen_machine *m, uint64_t address, uint64_t mask)
{
    return __atomic_fetch_or((uint64_t *)(m->memory + address), mask, __ATOMIC_SEQ_CST);
}

PYXEN_EXPORT uint64_t pyxen_machine_clear_bits(struct pyxen_machine *m, uint64_t address, uint64_t mask)
{
    return __atomic_fetch_and((uint64_t *)(m->memory + address), ~mask, __ATOMIC_SEQ_CST);
}

PYXEN_EXPORT uint32_t pyxen_machine_compare_exchange32(struct pyxen_machine *m, uint64_t address, uint32_t expected, uint32_t value)
{
    __atomic_compare_exchange_n((uint32_t *)(m->memory + address), &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}

PYXEN_EXPORT int pyxen_machine_compare_exchange(struct pyxen_machine *m, uint64_t address, uint64_t expected, uint64_t value)
{
    return __atomic_compare_exchange_n((uint64_t *)(m->memory + address), &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

void pyxen_machine_add(struct pyxen_machine *m, struct pyxen_cpu *p)
{
    int i;

    pthread_mutex_lock(&m->question_lock);
    pthread_mutex_lock(&m->lock);
    for (i = 0; i < PYXEN_MAX_CPUS && m->cpus[i]; i++) {
    }
    if (i < PYXEN_MAX_CPUS) {
        m->cpus[i] = p;
        m->used = MAX(m->used, i + 1);
        p->id = i + 1 < PYXEN_MANY ? i + 1 : PYXEN_MANY;
    }
    p->answered = m->question;
    pthread_mutex_unlock(&m->lock);
    pthread_mutex_unlock(&m->question_lock);
}

void pyxen_machine_remove(struct pyxen_machine *m, struct pyxen_cpu *p)
{
    int i;

    pthread_mutex_lock(&m->question_lock);
    pthread_mutex_lock(&m->lock);
    for (i = 0; i < m->used; i++) {
        if (m->cpus[i] == p) {
            m->cpus[i] = NULL;
        }
    }
    while (m->used && !m->cpus[m->used - 1]) {
        m->used--;
    }
    pthread_mutex_unlock(&m->lock);
    pthread_mutex_unlock(&m->question_lock);
}

/* ------------------------------------------------------------------ work for another CPU */

static void append(struct pyxen_work_list *list, struct pyxen_work item)
{
    struct pyxen_work *last = list->used ? &list->items[list->used - 1] : NULL;

    if (last && last->offset >> TARGET_PAGE_BITS == item.offset >> TARGET_PAGE_BITS) {
        uint64_t end = MAX(last->offset + last->size, item.offset + item.size);

        last->offset = MIN(last->offset, item.offset); /* a loop over one page is one item */
        last->size = end - last->offset;
        return;
    }
    if (list->used == list->room) {
        list->room = list->room ? list->room * 2 : 16;
        list->items = g_realloc(list->items, list->room * sizeof(*list->items));
    }
    list->items[list->used++] = item;
}

static void send(struct pyxen_cpu *to, struct pyxen_work item)
{
    pthread_mutex_lock(&to->work_lock);
    append(&to->work, item);
    pthread_mutex_unlock(&to->work_lock);
    pyxen_request(to, PYXEN_REQUEST_WORK);
}

static void send_to_others(struct pyxen_cpu *from, struct pyxen_work item)
{
    struct pyxen_machine *m = from->machine;
    int i;

    pthread_mutex_lock(&m->lock);
    for (i = 0; i < m->used; i++) {
        if (m->cpus[i] && m->cpus[i] != from) {
            send(m->cpus[i], item);
        }
    }
    pthread_mutex_unlock(&m->lock);
}

PYXEN_EXPORT void pyxen_cpu_invalidate_frame(struct pyxen_cpu *p, uint64_t mfn)
{
    struct pyxen_work item = { mfn << TARGET_PAGE_BITS, TARGET_PAGE_SIZE };

    if (mfn < p->machine->frames) {
        send(p, item);
    }
}

/* Hypervisor.note_write. */
void pyxen_frame_written(struct pyxen_cpu *p, uint64_t frame)
{
    struct pyxen_work item = { frame << TARGET_PAGE_BITS, TARGET_PAGE_SIZE };

    if (pyxen_machine_has_code(p->machine, frame)) {
        send(p, item);
        send_to_others(p, item);
    }
}

/* ------------------------------------------------------------------ the frames of this CPU */

static bool holds_code(struct pyxen_cpu *p, uint64_t frame)
{
    return p->code_frames[frame / 64] >> (frame % 64) & 1;
}

static void give_up(struct pyxen_cpu *p, uint64_t frame)
{
    p->code_frames[frame / 64] &= ~(1ull << (frame % 64));
    __atomic_fetch_sub(&p->machine->code_holders[frame], 1, __ATOMIC_SEQ_CST);
}

/* Make stores to a frame that go through the entry unchecked take the slow path. */
static void protect_entry(CPUTLBEntry *entry, uintptr_t host)
{
    target_ulong address = entry->addr_write;

    if (!(address & (TLB_INVALID_MASK | TLB_MMIO | TLB_DISCARD_WRITE)) && (address & TARGET_PAGE_MASK) + entry->addend == host) {
        entry->addr_write |= TLB_NOTDIRTY;
    }
}

static void protect_entries(struct pyxen_cpu *p, uint64_t frame)
{
    CPUX86State *env = p->uc->cpu->env_ptr;
    uintptr_t host = (uintptr_t)p->machine->memory + (frame << TARGET_PAGE_BITS);
    int mode, i;

    for (mode = 0; mode < NB_MMU_MODES; mode++) {
        CPUTLBDescFast *fast = &env_tlb(env)->f[mode];
        size_t entries = (fast->mask >> CPU_TLB_ENTRY_BITS) + 1;
        size_t n;

        if (!(env_tlb(env)->c.dirty >> mode & 1)) {
            continue; /* empty since the last flush */
        }
        for (n = 0; n < entries; n++) {
            protect_entry(&fast->table[n], host);
        }
        for (i = 0; i < CPU_VTLB_SIZE; i++) {
            protect_entry(&env_tlb(env)->d[mode].vtable[i], host);
        }
    }
}

/* Say that this CPU may from now on store to the frame without a check. Comes before the look at code_holders that decides on it. */
static void claim_writes(struct pyxen_cpu *p, uint64_t frame)
{
    uint8_t *writer = &p->machine->writers[frame];
    uint8_t old = __atomic_load_n(writer, __ATOMIC_RELAXED);

    while (old != p->id && old != PYXEN_MANY) {
        if (__atomic_compare_exchange_n(writer, &old, old ? PYXEN_MANY : p->id, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            break;
        }
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool pyxen_frame_is_clean(struct uc_struct *uc, uint64_t offset)
{
    struct pyxen_cpu *p = uc->pyxen;
    uint64_t frame = offset >> TARGET_PAGE_BITS;

    claim_writes(p, frame);
    return __atomic_load_n(&p->machine->code_holders[frame], __ATOMIC_RELAXED) != 0;
}

/* What another CPU wants of this one: that stores to a frame be checked. On the thread that runs this one, or while nobody does. */
static void answer(struct pyxen_cpu *p)
{
    uint64_t question = __atomic_load_n(&p->machine->question, __ATOMIC_ACQUIRE);

    if (p->answered != question) {
        protect_entries(p, __atomic_load_n(&p->machine->question_frame, __ATOMIC_RELAXED));
        __atomic_store_n(&p->answered, question, __ATOMIC_RELEASE);
    }
}

static void wait_for_answer(struct pyxen_cpu *from)
{
    pyxen_request(from, PYXEN_REQUEST_WORK);
    while (__atomic_load_n(&from->answered, __ATOMIC_ACQUIRE) != from->machine->question) {
        pthread_mutex_lock(&from->run_lock);
        if (!from->running) {
            answer(from);
        }
        pthread_mutex_unlock(&from->run_lock);
        sched_yield();
    }
}

void pyxen_begin_question(struct pyxen_cpu *p)
{
    while (pthread_mutex_trylock(&p->machine->question_lock)) {
        answer(p); /* who holds it may be waiting for this CPU */
        pyxen_stand_still(p);
        sched_yield();
    }
    answer(p);
}

/*
 * Flush the TLB of another CPU of the domain, which may be running, and return when none of its accesses can use an old translation. False:
 * it takes long. With the hypervisor's lock, for which the other never waits in a run; meanwhile what others want of this CPU is answered.
 */
bool pyxen_flush_remotely(struct pyxen_cpu *p, struct pyxen_cpu *other)
{
    uint32_t wanted = __atomic_add_fetch(&other->flushes_wanted, 1, __ATOMIC_SEQ_CST);
    int look;

    pyxen_request(other, PYXEN_REQUEST_FLUSH);
    for (look = 0; look < FLUSH_LOOKS; look++) {
        bool running;

        if ((int32_t)(__atomic_load_n(&other->flushes_done, __ATOMIC_ACQUIRE) - wanted) >= 0) {
            return true;
        }
        pthread_mutex_lock(&other->run_lock);
        running = other->running;
        if (!running) {
            tlb_flush(other->uc->cpu);
        }
        pthread_mutex_unlock(&other->run_lock);
        if (!running) {
            return true;
        }
        answer(p);
        pyxen_stand_still(p);
        sched_yield();
    }
    return false;
}

/* Between two blocks. */
void pyxen_flush_as_asked(struct pyxen_cpu *p)
{
    uint32_t wanted;

    __atomic_fetch_and(&p->requests, ~PYXEN_REQUEST_FLUSH, __ATOMIC_SEQ_CST);
    wanted = __atomic_load_n(&p->flushes_wanted, __ATOMIC_SEQ_CST);
    tlb_flush(p->uc->cpu);
    __atomic_store_n(&p->flushes_done, wanted, __ATOMIC_RELEASE);
}

/* Return when no other CPU stores to the frame unchecked. Nobody will again while this CPU is counted as a holder of its code. */
static void end_unchecked_stores(struct pyxen_cpu *p, uint64_t frame, uint8_t writer)
{
    struct pyxen_machine *m = p->machine;
    int i;

    pyxen_begin_question(p);
    __atomic_store_n(&m->question_frame, frame, __ATOMIC_RELAXED);
    __atomic_store_n(&m->question, m->question + 1, __ATOMIC_RELEASE);
    p->answered = m->question;
    for (i = 0; i < m->used; i++) {
        if (m->cpus[i] && m->cpus[i] != p && (writer == PYXEN_MANY || m->cpus[i]->id == writer)) {
            wait_for_answer(m->cpus[i]);
        }
    }
    __atomic_store_n(&m->writers[frame], 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&m->question_lock);
}

void pyxen_protect_frame(struct uc_struct *uc, uint64_t offset)
{
    struct pyxen_cpu *p = uc->pyxen;
    uint64_t frame = offset >> TARGET_PAGE_BITS;
    uint8_t writer;

    if (holds_code(p, frame)) {
        return;
    }
    p->code_frames[frame / 64] |= 1ull << (frame % 64);
    __atomic_fetch_add(&p->machine->code_holders[frame], 1, __ATOMIC_SEQ_CST);
    writer = __atomic_load_n(&p->machine->writers[frame], __ATOMIC_SEQ_CST);
    if (writer == p->id || writer == PYXEN_MANY) {
        protect_entries(p, frame);
    }
    if (writer == p->id && writer != PYXEN_MANY) {
        __atomic_compare_exchange_n(&p->machine->writers[frame], &writer, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    } else if (writer) {
        end_unchecked_stores(p, frame, writer);
    }
}

void pyxen_unprotect_frame(struct uc_struct *uc, uint64_t offset)
{
    struct pyxen_cpu *p = uc->pyxen;
    uint64_t frame = offset >> TARGET_PAGE_BITS;

    if (holds_code(p, frame)) {
        give_up(p, frame);
    }
}

void pyxen_all_code_dropped(struct uc_struct *uc)
{
    struct pyxen_cpu *p = uc->pyxen;
    uint64_t word, words;

    if (!p) {
        return; /* the engine is being closed */
    }
    words = (p->machine->frames + 63) / 64;
    for (word = 0; word < words; word++) {
        while (p->code_frames[word]) {
            give_up(p, word * 64 + ctz64(p->code_frames[word]));
        }
    }
}

/* Return if the instruction is in a block of its own; otherwise it is run again in one. */
static void make_alone(CPUState *cs, uintptr_t retaddr)
{
    TranslationBlock *tb = retaddr ? tcg_tb_lookup(cs->uc->tcg_ctx, retaddr) : NULL;

    if (tb && tb->icount > 1) {
        cs->cflags_next_tb = 1 | CF_PARALLEL;
        cpu_restore_state(cs, retaddr, true);
        cpu_loop_exit_noexc(cs);
    }
}

void pyxen_write_clean_frame(CPUState *cs, uint64_t address, uint64_t offset, unsigned size, uintptr_t retaddr)
{
    struct pyxen_cpu *p = cs->uc->pyxen;
    uint64_t frame = offset >> TARGET_PAGE_BITS;
    uint16_t *holders = &p->machine->code_holders[frame];

    if (holds_code(p, frame)) {
        /* Longjmps if the block that stores is itself among the dropped: the store is then made by a block of one instruction. */
        pyxen_drop_written_code(cs->uc, offset, size, retaddr);
    }
    if (__atomic_load_n(holders, __ATOMIC_RELAXED) == 0) {
        claim_writes(p, frame);
        if (__atomic_load_n(holders, __ATOMIC_RELAXED) == 0) {
            tlb_set_dirty(cs, address);
            return;
        }
    }
    if (__atomic_load_n(holders, __ATOMIC_RELAXED) > (holds_code(p, frame) ? 1 : 0)) {
        struct pyxen_work item = { offset, size };

        make_alone(cs, retaddr);
        /* The store is yet to be made: tell the others at the end of the block, when it has been. */
        append(&p->broadcast, item);
        pyxen_request(p, PYXEN_REQUEST_BROADCAST);
    }
}

/* Between two blocks, on the thread that runs the CPU. */
void pyxen_do_work(struct pyxen_cpu *p)
{
    struct pyxen_work_list work;
    unsigned i;

    __atomic_fetch_and(&p->requests, ~(PYXEN_REQUEST_WORK | PYXEN_REQUEST_BROADCAST), __ATOMIC_SEQ_CST);
    answer(p); /* before any lock is taken that who asks may hold */
    pyxen_stand_still(p);
    for (i = 0; i < p->broadcast.used; i++) {
        send_to_others(p, p->broadcast.items[i]);
    }
    p->broadcast.used = 0;
    pthread_mutex_lock(&p->work_lock);
    work = p->work;
    memset(&p->work, 0, sizeof(p->work));
    pthread_mutex_unlock(&p->work_lock);
    for (i = 0; i < work.used; i++) {
        struct pyxen_work *item = &work.items[i];

        if (holds_code(p, item->offset >> TARGET_PAGE_BITS)) {
            tb_invalidate_phys_range(p->uc, item->offset, item->offset + item->size);
        }
    }
    g_free(work.items);
}

void pyxen_free_work(struct pyxen_cpu *p)
{
    g_free(p->work.items);
    g_free(p->broadcast.items);
}
