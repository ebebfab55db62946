/*
 * The local APIC of an HVM vCPU, as far as its registers are read and written while nothing but requests follows from it: the task priority,
 * the end of an interrupt, fixed IPIs to vCPUs that do not sleep; and which interrupt is next.
 *
 * src/pyxen/hypervisor/hvm/local_apic.py is the reference. Requests are under the hypervisor's lock; the rest belongs to the vCPU's thread.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_gate.h"
#include "pyxen_internal.h"

/* Offsets of registers. */
enum { TPR = 0x80, EOI = 0xb0, SVR = 0xf0, ICR = 0x300, ICR_HIGH = 0x310, SELF_IPI = 0x3f0 };

#define BASE_ENABLED (1u << 11)
#define BASE_X2APIC (1u << 10)
#define SVR_ENABLED (1u << 8)
#define FIRST_VECTOR 16

#define ICR_BITS 0xccfffu
#define ICR_MODE 0x700u /* of delivery; 0: fixed */
#define ICR_LOGICAL (1u << 11)
#define ICR_SHORTHAND_SHIFT 18
enum { ONE, ITSELF, EVERYBODY, ALL_OTHERS };
#define BROADCAST 0xffffffffu

static uint32_t *apic_register(struct pyxen_gate *g, unsigned offset)
{
    return &g->apic.registers[offset >> 4];
}

static int highest(const uint64_t *bits)
{
    int word;

    for (word = PYXEN_APIC_WORDS - 1; word >= 0; word--) {
        uint64_t value = __atomic_load_n(&bits[word], __ATOMIC_RELAXED);

        if (value) {
            return 64 * word + 63 - __builtin_clzll(value);
        }
    }
    return -1;
}

/* LocalApic.accepts. */
static bool accepts(struct pyxen_gate *g)
{
    return (g->apic.base & BASE_ENABLED) && (*apic_register(g, SVR) & SVR_ENABLED);
}

/* LocalApic.pending; -1: none. */
int pyxen_apic_pending(struct pyxen_cpu *p)
{
    struct pyxen_gate *g = p->gate;
    int vector = highest(g->apic.requests), service = highest(g->apic.services);
    int class = MAX((int)p->state->cr8, service < 0 ? 0 : service >> 4); /* TPR's class is CR8 */

    return vector >= 0 && accepts(g) && vector >> 4 > class ? vector : -1;
}

/* LocalApic.acknowledge. Lock held. */
void pyxen_apic_acknowledge(struct pyxen_gate *g, unsigned vector)
{
    g->apic.requests[vector / 64] &= ~(1ull << vector % 64);
    g->apic.services[vector / 64] |= 1ull << vector % 64;
}

/* LocalApic.request, for a vCPU that is not blocked; of a vector that is none of an exception. Lock held. */
void pyxen_apic_request(struct pyxen_cpu *p, struct pyxen_gate *target, unsigned vector)
{
    if (!accepts(target)) {
        return;
    }
    target->apic.requests[vector / 64] |= 1ull << vector % 64;
    pyxen_attend(p, target);
}

/* LocalApic._targets. */
static bool is_target(const struct pyxen_gate *sender, const struct pyxen_gate *other, uint32_t command, uint32_t destination)
{
    uint32_t id = 2 * other->vcpu_id, logical = id >> 4 << 16 | 1u << (id & 15);

    switch (command >> ICR_SHORTHAND_SHIFT & 3) {
    case ITSELF:
        return other == sender;
    case EVERYBODY:
        return true;
    case ALL_OTHERS:
        return other != sender;
    default:
        if (destination == BROADCAST) {
            return true;
        }
        return command & ICR_LOGICAL ? logical >> 16 == destination >> 16 && (logical & destination & 0xffff) : id == destination;
    }
}

/* LocalApic._send, of fixed interrupts. False: nothing has happened. */
static bool send(struct pyxen_cpu *p, uint32_t command, uint32_t destination)
{
    struct pyxen_gate *g = p->gate, *other = g;
    unsigned vector = command & 0xff;
    bool sleeping = false;

    if ((command & ICR_MODE) || vector < FIRST_VECTOR || !pyxen_lock_try_shortly(&p->machine->hypervisor)) {
        return false;
    }
    do {
        sleeping |= is_target(g, other, command, destination) && other->blocked;
        other = other->next;
    } while (other != g);
    if (!sleeping) {
        do {
            if (is_target(g, other, command, destination)) {
                pyxen_apic_request(p, other, vector);
            }
            other = other->next;
        } while (other != g);
    }
    pyxen_lock_release(&p->machine->hypervisor);
    return !sleeping;
}

/* LocalApic.write_msr, where nothing can be wrong with it. False: Python has to look. */
bool pyxen_apic_write(struct pyxen_cpu *p, uint32_t number, uint64_t value)
{
    struct pyxen_gate *g = p->gate;
    uint32_t command = value;
    int service;

    if (!(g->apic.base & BASE_X2APIC)) {
        return false;
    }
    switch ((number & 0x3ff) << 4) {
    case TPR:
        if (value >> 8) {
            return false;
        }
        *apic_register(g, TPR) = value;
        p->state->cr8 = value >> 4;
        return true;
    case EOI:
        service = highest(g->apic.services);
        if (value) {
            return false;
        }
        if (service >= 0) {
            g->apic.services[service / 64] &= ~(1ull << service % 64);
        }
        return true;
    case ICR:
        if ((command & ~ICR_BITS) || !send(p, command, value >> 32)) {
            return false;
        }
        *apic_register(g, ICR) = command;
        *apic_register(g, ICR_HIGH) = value >> 32;
        return true;
    case SELF_IPI:
        return !(value >> 8) && send(p, ITSELF << ICR_SHORTHAND_SHIFT | (uint32_t)value, 0);
    default:
        return false;
    }
}
