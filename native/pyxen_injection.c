/*
 * Events that the hypervisor gives to a guest with an IDT of its own: interrupts, which wait until the guest takes them, NMIs and
 * exceptions. Delivery is the engine's own (gates, task-state segment, IST).
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_internal.h"

/* The field is laid out as VMX's interruption information (Intel SDM volume 3, table 24-16). */
#define ERROR_CODE (1u << 11)
#define VECTOR 0xffu
#define TYPE_SHIFT 8
#define TYPE_MASK 7u
#define TYPE_EXTERNAL 0
#define TYPE_NMI 2

static bool takes_interrupts(const CPUX86State *env)
{
    return (env->eflags & IF_MASK) && !(env->hflags & HF_INHIBIT_IRQ_MASK);
}

static bool takes_nmis(const CPUX86State *env)
{
    return !(env->hflags2 & HF2_NMI_MASK) && !(env->hflags & HF_INHIBIT_IRQ_MASK);
}

bool pyxen_injection_wanted(const struct pyxen_cpu *p)
{
    return !p->deprivileged && ((p->state->injection & PYXEN_EVENT_VALID) || p->state->interrupt_window);
}

/* Between two blocks. True: an exception index is set for the main loop to look at. May longjmp, if delivery faults. */
bool pyxen_inject(struct pyxen_cpu *p)
{
    CPUState *cs = p->uc->cpu;
    CPUX86State *env = cs->env_ptr;
    struct pyxen_state *s = p->state;
    uint32_t event = s->injection;
    uint32_t type = event >> TYPE_SHIFT & TYPE_MASK;

    if (!(event & PYXEN_EVENT_VALID)) {
        if (s->interrupt_window && takes_interrupts(env)) {
            pyxen_leave_at_boundary(p, PYXEN_EXIT_INTERRUPT_WINDOW);
            return true;
        }
        return false;
    }
    if ((type == TYPE_EXTERNAL && !takes_interrupts(env)) || (type == TYPE_NMI && !takes_nmis(env))) {
        return false;
    }
    s->injection = 0; /* taken, whatever becomes of it */
    switch (type) {
    case TYPE_EXTERNAL:
        do_interrupt_x86_hardirq(env, event & VECTOR, 1);
        return false;
    case TYPE_NMI:
        env->hflags2 |= HF2_NMI_MASK;
        do_interrupt_x86_hardirq(env, EXCP02_NMI, 1);
        return false;
    default:
        env->exception_is_int = 0;
        env->error_code = event & ERROR_CODE ? s->injection_error_code : 0;
        cs->exception_index = event & VECTOR;
        return true;
    }
}
