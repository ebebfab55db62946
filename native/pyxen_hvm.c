/*
 * The gate of HVM vCPUs: CPUID, hypercalls that PV guests have too, registers that only hold a value, the local APIC, and the injection of
 * what has arrived; for kernels in 64-bit code.
 *
 * src/pyxen/hypervisor/hvm/{exits,interrupts,msr,guest_paging}.py are the reference: each path here does what they do, or leaves
 * everything untouched and lets them do it (false).
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_gate.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define MSR_LENGTH 2

#define MSR_X2APIC 0x800u
#define MSR_X2APIC_END 0xc00u

#define FIRST_LEVEL 12
#define LAST_LEVEL 39

/* PhysicalMap.machine_address, for reading; NULL where there is no memory. */
static const uint8_t *physical_place(struct pyxen_cpu *p, uint64_t address)
{
    uint64_t machine = pyxen_machine_address(p, address);

    return machine == PYXEN_NO_ADDRESS ? NULL : p->machine->memory + machine;
}

/* guest_paging.machine_address, with four levels, for reading. Not NULL only if `size` octets lie in the same page. */
const uint8_t *pyxen_hvm_place(struct pyxen_cpu *p, uint64_t address, unsigned size)
{
    const CPUX86State *env = p->uc->cpu->env_ptr;
    uint64_t table = env->cr[3] & PG_ADDRESS_MASK, entry, within;
    const uint8_t *place;
    int shift;

    if (!pyxen_is_canonical(address) || (address & 0xfff) > 4096 - size || !(env->cr[0] & CR0_PG_MASK) ||
        !(env->efer & MSR_EFER_LMA)) {
        return NULL;
    }
    for (shift = LAST_LEVEL; shift >= FIRST_LEVEL; shift -= 9) {
        place = physical_place(p, table + (address >> shift & 0x1ff) * 8);
        if (!place) {
            return NULL;
        }
        entry = __atomic_load_n((const uint64_t *)place, __ATOMIC_RELAXED);
        if (!(entry & PG_PRESENT_MASK)) {
            return NULL;
        }
        if (shift == FIRST_LEVEL || (shift < LAST_LEVEL && (entry & PG_PSE_MASK))) {
            within = (1ull << shift) - 1;
            return physical_place(p, (entry & PG_ADDRESS_MASK & ~within) | (address & within));
        }
        table = entry & PG_ADDRESS_MASK;
    }
    return NULL;
}

/* The kernel's, without anything that the instruction would have to do beside its work. */
static bool is_plain(const CPUX86State *env)
{
    return (env->segs[R_CS].flags & DESC_L_MASK) && (env->efer & MSR_EFER_LMA) && !(env->eflags & (TF_MASK | RF_MASK));
}

/* exits.on_hypercall. */
static bool hypercall(struct pyxen_cpu *p, CPUX86State *env)
{
    uint64_t number = env->regs[R_EAX], result, arguments[] = { env->regs[R_EDI], env->regs[R_ESI], env->regs[R_EDX] };

    if (env->hflags & HF_CPL_MASK || !pyxen_simple_hypercall(p, number, arguments, &result)) {
        return false;
    }
    env->eip += p->state->instruction_length;
    env->regs[R_EAX] = result;
    return true;
}

/* msr.py: _base, _member, for what the kernel changes with each task. */
static target_ulong *plain_register(CPUX86State *env, uint32_t number)
{
    switch (number) {
    case MSR_FSBASE:
        return &env->segs[R_FS].base;
    case MSR_GSBASE:
        return &env->segs[R_GS].base;
    case MSR_KERNELGSBASE:
        return &env->kernelgsbase;
    default:
        return NULL;
    }
}

/* exits.on_rdmsr. */
static bool read_register(struct pyxen_cpu *p, CPUX86State *env)
{
    const target_ulong *place = plain_register(env, env->regs[R_ECX]);

    if (!place) {
        return false;
    }
    env->regs[R_EAX] = (uint32_t)*place;
    env->regs[R_EDX] = *place >> 32;
    env->eip += MSR_LENGTH;
    p->gate->registers++;
    return true;
}

/* exits.on_wrmsr. */
static bool write_register(struct pyxen_cpu *p, CPUX86State *env)
{
    uint64_t value = env->regs[R_EDX] << 32 | (uint32_t)env->regs[R_EAX];
    uint32_t number = env->regs[R_ECX];
    target_ulong *place = plain_register(env, number);

    if (place) {
        if (!pyxen_is_canonical(value)) {
            return false;
        }
        *place = value;
        pyxen_segments_changed(env);
    } else if (number < MSR_X2APIC || number >= MSR_X2APIC_END || !pyxen_apic_write(p, number, value)) {
        return false;
    }
    env->eip += MSR_LENGTH;
    p->gate->registers++;
    return true;
}

static void inject(struct pyxen_cpu *p, uint32_t event, bool window)
{
    p->state->injection = event;
    p->state->interrupt_window = window;
    if (pyxen_injection_wanted(p)) {
        __atomic_fetch_or(&p->requests, PYXEN_REQUEST_INJECT, __ATOMIC_SEQ_CST);
    }
}

/* interrupts.deliver_pending. False: there is something that Python has to deliver. */
bool pyxen_hvm_deliver_pending(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    int callback = g->upcall_vector ? 0 : g->domain->callback_vector, requested, vector;

    if (p->state->injection & PYXEN_EVENT_VALID) {
        return true;
    }
    if (g->nmi_pending) {
        return false;
    }
    requested = pyxen_apic_pending(p);
    vector = callback && p->machine->memory[g->info + INFO_PENDING] ? callback : requested;
    if (vector < 0 || !(env->eflags & IF_MASK)) {
        inject(p, 0, vector >= 0);
        return true;
    }
    if (vector == requested) {
        if (!pyxen_lock_try_shortly(&p->machine->hypervisor)) {
            return false;
        }
        pyxen_apic_acknowledge(g, vector);
        pyxen_lock_release(&p->machine->hypervisor);
    }
    inject(p, PYXEN_EVENT_VALID | vector, pyxen_apic_pending(p) >= 0);
    g->upcalls++;
    return true;
}

bool pyxen_hvm_serve(struct pyxen_cpu *p, CPUX86State *env)
{
    if (p->state->exit_reason == PYXEN_EXIT_INTERRUPT_WINDOW) {
        return true;
    }
    if (!is_plain(env)) {
        return false;
    }
    switch (p->state->exit_reason) {
    case PYXEN_EXIT_CPUID:
        return pyxen_cpuid(p, env);
    case PYXEN_EXIT_HYPERCALL:
        return hypercall(p, env);
    case PYXEN_EXIT_RDMSR:
        return read_register(p, env);
    case PYXEN_EXIT_WRMSR:
        return write_register(p, env);
    default:
        return false;
    }
}
