/*
 * Events that the gate sends by itself: a domain's IPIs, and VIRQ_TIMER when the one-shot timer is due; by both ABIs of event channels.
 *
 * src/pyxen/hypervisor/{event_channel,event_two_level,event_fifo,sched_op,vcpu_op}.py are the reference. All of it but arming the timer is
 * under the hypervisor's lock. Nothing that the guest can write is used as an address or an index.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_gate.h"
#include "pyxen_internal.h"

enum { TWO_LEVEL = 1, FIFO = 2 };
enum { EVTCHNOP_SEND = 4 };
enum { VCPUOP_IS_UP = 3, VCPUOP_SET_SINGLESHOT_TIMER = 8, VCPUOP_STOP_SINGLESHOT_TIMER = 9 };

#define TWO_LEVEL_PORTS 4096
#define SHARED_PENDING 2048
#define SHARED_MASK 2560

#define WORDS_PER_PAGE 1024
#define FIFO_PORTS (128 * WORDS_PER_PAGE)
#define PENDING (1u << 31)
#define MASKED (1u << 30)
#define LINKED (1u << 29)
#define BUSY (1u << 28)
#define LINK_MASK 0x1ffffu
#define LINK_ATTEMPTS 4
#define CONTROL_HEADS 8
#define DEFAULT_PRIORITY 7

static struct pyxen_gate *vcpu_of(struct pyxen_gate *any, uint64_t vcpu_id)
{
    while (any->vcpu_id != vcpu_id) {
        any = any->next;
    }
    return any;
}

static uint32_t read_word(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static uint32_t set_bits(uint32_t *word, uint32_t bits)
{
    return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}

/* Vcpu.attend. The vCPU that serves its own exit looks anyway. */
void pyxen_attend(struct pyxen_cpu *p, struct pyxen_gate *target)
{
    if (target != p->gate && target->in_guest) {
        pyxen_request(target->cpu, PYXEN_REQUEST_EVENTS);
    }
}

/* event_channel_delivery.mark_events_pending, for a vCPU that is not blocked. */
static void mark_events_pending(struct pyxen_cpu *p, struct pyxen_gate *target)
{
    if (__atomic_fetch_or(p->machine->memory + target->info + INFO_PENDING, 1, __ATOMIC_SEQ_CST)) {
        return;
    }
    if (target->upcall_vector) {
        pyxen_apic_request(p, target, target->upcall_vector);
    } else {
        pyxen_attend(p, target);
    }
}

/* event_two_level.TwoLevelDelivery.set_pending. */
static void send_by_two_levels(struct pyxen_cpu *p, struct pyxen_gate *target, uint32_t port)
{
    uint8_t *shared = p->machine->memory + p->gate->domain->shared_info;
    uint64_t word = port / 64 * 8, bit = 1ull << port % 64, selected = 1ull << port / 64;
    uint64_t *selector = (uint64_t *)(p->machine->memory + target->info + INFO_SELECTOR);

    if (__atomic_fetch_or((uint64_t *)(shared + SHARED_PENDING + word), bit, __ATOMIC_SEQ_CST) & bit) {
        return;
    }
    if (!(__atomic_load_n((uint64_t *)(shared + SHARED_MASK + word), __ATOMIC_SEQ_CST) & bit) &&
        !(__atomic_fetch_or(selector, selected, __ATOMIC_SEQ_CST) & selected)) {
        mark_events_pending(p, target);
    }
}

/* FifoDelivery._word. */
static uint32_t *fifo_word(struct pyxen_cpu *p, uint32_t port)
{
    const struct pyxen_gate_domain *d = p->gate->domain;
    uint32_t page = port / WORDS_PER_PAGE;

    return page < d->event_pages_used ? (uint32_t *)(p->machine->memory + ((uint64_t)d->event_pages[page] << 12)) + port % WORDS_PER_PAGE
                                      : NULL;
}

enum link_outcome {
    LINK_MADE,
    LINK_CONSUMED, /* the guest has, so the queue is empty */
    LINK_UNCERTAIN,
};

/* FifoDelivery._link: have the word at `tail` point to the port. */
static enum link_outcome link_to(uint32_t *tail, uint32_t port)
{
    uint32_t word = read_word(tail);
    int attempt;

    for (attempt = 0; attempt <= LINK_ATTEMPTS && word & LINKED; attempt++) {
        if (__atomic_compare_exchange_n(tail, &word, (word & ~(BUSY | LINK_MASK)) | port, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) {
            return LINK_MADE;
        }
        if (!attempt) {
            set_bits(tail, BUSY); /* from now on the guest does not unmask this port */
            word = read_word(tail);
        }
    }
    if (attempt) {
        __atomic_fetch_and(tail, ~BUSY, __ATOMIC_SEQ_CST);
    }
    return word & LINKED ? LINK_UNCERTAIN : LINK_CONSUMED;
}

/* FifoDelivery._append. False: the word before it changes all the time, and nothing but that has happened. */
static bool append(struct pyxen_cpu *p, struct pyxen_gate *target, uint32_t port)
{
    struct pyxen_gate_domain *d = p->gate->domain;
    uint32_t priority = d->event_priorities[port] ? d->event_priorities[port] - 1 : DEFAULT_PRIORITY;
    uint32_t last = d->event_queues[port], *tail = &target->event_tails[priority];
    uint8_t *control = p->machine->memory + target->event_control;

    if (last) {
        struct pyxen_gate *old = vcpu_of(target, (last - 1) / PYXEN_GATE_QUEUES);

        if (old->event_tails[(last - 1) % PYXEN_GATE_QUEUES] == port) {
            old->event_tails[(last - 1) % PYXEN_GATE_QUEUES] = 0;
        }
    }
    d->event_queues[port] = 1 + PYXEN_GATE_QUEUES * target->vcpu_id + priority;
    switch (*tail ? link_to(fifo_word(p, *tail), port) : LINK_CONSUMED) {
    case LINK_UNCERTAIN:
        return false;
    case LINK_MADE:
        *tail = port;
        return true;
    default:
        *tail = port;
        __atomic_store_n((uint32_t *)(control + CONTROL_HEADS) + priority, port, __ATOMIC_SEQ_CST);
        if (!(set_bits((uint32_t *)control, 1u << priority) & 1u << priority)) {
            mark_events_pending(p, target);
        }
        return true;
    }
}

/* FifoDelivery.set_pending. */
static bool send_by_queue(struct pyxen_cpu *p, struct pyxen_gate *target, uint32_t port)
{
    uint32_t *word = fifo_word(p, port);

    if (!word || !target->event_control) {
        return false;
    }
    set_bits(word, PENDING);
    if (!(read_word(word) & MASKED) && !(set_bits(word, LINKED) & LINKED) && !append(p, target, port)) {
        __atomic_fetch_and(word, ~LINKED, __ATOMIC_SEQ_CST); /* Python begins again */
        return false;
    }
    return true;
}

/* An event of a port of the domain's own. False: Python has to look, and may do all of it once more. Lock held. */
static bool send(struct pyxen_cpu *p, uint64_t vcpu_id, uint32_t port)
{
    struct pyxen_gate_domain *d = p->gate->domain;
    struct pyxen_gate *target = vcpu_of(p->gate, vcpu_id), *g = target;

    if (d->exclusive || target->blocked) {
        return false;
    }
    do { /* those that poll may have to be woken */
        if (g->polled) {
            return false;
        }
        g = g->next;
    } while (g != target);
    if (d->event_abi == FIFO) {
        return send_by_queue(p, target, port);
    }
    if (d->event_abi != TWO_LEVEL || d->narrow || port >= TWO_LEVEL_PORTS) {
        return false;
    }
    send_by_two_levels(p, target, port);
    return true;
}

/* EVTCHNOP_send, to an IPI's port. */
bool pyxen_event_channel_hypercall(struct pyxen_cpu *p, const uint64_t *arguments)
{
    struct pyxen_gate_domain *d = p->gate->domain;
    const uint8_t *place;
    uint32_t port;
    bool sent;

    if ((uint32_t)arguments[0] != EVTCHNOP_SEND) {
        return false;
    }
    place = pyxen_argument(p, arguments[1], sizeof(port));
    if (!place || !pyxen_lock_try_shortly(&p->machine->hypervisor)) {
        return false;
    }
    memcpy(&port, place, sizeof(port));
    sent = port < FIFO_PORTS && d->event_ipis && d->event_ipis[port] && send(p, d->event_ipis[port] - 1, port);
    pyxen_lock_release(&p->machine->hypervisor);
    p->gate->events_sent += sent;
    return sent;
}

/* vcpu_op.vcpu_op: which vCPUs there are, of which Linux asks for the 8192 that it could have; and the vCPU's own one-shot timer. What is in
   flags, and what could not be armed, is Python's. */
bool pyxen_vcpu_hypercall(struct pyxen_cpu *p, const uint64_t *arguments, uint64_t *result)
{
    struct pyxen_gate *g = p->gate;
    const uint8_t *place;
    struct {
        uint64_t timeout_abs_ns;
        uint32_t flags;
    } op;

    if ((uint32_t)arguments[0] == VCPUOP_IS_UP) {
        *result = (uint32_t)arguments[1] < g->domain->vcpus ? vcpu_of(g, (uint32_t)arguments[1])->online : -ENOENT;
        return true;
    }
    if ((uint32_t)arguments[1] != g->vcpu_id) {
        return false;
    }
    switch ((uint32_t)arguments[0]) {
    case VCPUOP_SET_SINGLESHOT_TIMER:
        place = pyxen_argument(p, arguments[2], 16);
        if (!place) {
            return false;
        }
        memcpy(&op, place, 12);
        return !op.flags && op.timeout_abs_ns && !(op.timeout_abs_ns >> 63) && pyxen_timer_set(p, op.timeout_abs_ns);
    case VCPUOP_STOP_SINGLESHOT_TIMER:
        return pyxen_timer_set(p, 0);
    default:
        return false;
    }
}

/* The alarm has gone, or another vCPU has sent an event. False: Python has to look at the timer. */
bool pyxen_timer_look(struct pyxen_cpu *p)
{
    struct pyxen_gate *g = p->gate;
    bool done = true;
    int64_t left;

    if (!g->timer_native || !g->timer_deadline) {
        return true;
    }
    left = pyxen_timer_left(p);
    if (left > 0) {
        return pyxen_timer_start(p, left);
    }
    if (!pyxen_lock_try_shortly(&p->machine->hypervisor)) {
        return false;
    }
    if (g->timer_port) {
        done = send(p, g->vcpu_id, g->timer_port);
    }
    if (done) {
        g->timer_deadline = 0;
        g->timer_events++;
    }
    pyxen_lock_release(&p->machine->hypervisor);
    return done;
}
