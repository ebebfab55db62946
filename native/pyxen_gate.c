/*
 * The gate: system calls, page faults, event upcalls, HYPERVISOR_iret, CPUID and hypercalls of PV guests that need only
 * the vCPU's own registers and block, served between two runs of the translator.
 *
 * src/pyxen/hypervisor/{traps,exits,cpu_ops}.py are the reference: each path here does what they do, or leaves everything untouched and lets
 * them do it (false). It needs no lock: it changes only the vCPU's own block and registers, and the guest's own memory as the guest
 * itself could.
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

#define FLAT_KERNEL_CS 0xe033
#define FLAT_KERNEL_SS 0xe02b
#define CODE64_ATTRIBUTES 0x00affb00u
#define DATA_ATTRIBUTES 0x00cff300u
#define KERNEL_CPL 1
#define USER_CPL 3

#define LOWER_HALF_END (1ull << 47)
#define XEN_RANGE_END 0xffff880000000000ull
#define PTE_ADDRESS 0x000ffffffffff000ull
#define PTE_PRESENT 1u
#define PTE_RW 2u

/* traps.py: CLEARED_ON_ENTRY, SETTABLE_FLAGS */
#define CLEARED_ON_ENTRY (TF_MASK | NT_MASK | RF_MASK | VM_MASK | AC_MASK)
#define SETTABLE_FLAGS 0x254dd5u

#define HYPERCALL_STACK_SWITCH 3
#define HYPERCALL_FPU_TASKSWITCH 5
#define HYPERCALL_XEN_VERSION 17
#define HYPERCALL_IRET 23
#define HYPERCALL_VCPU_OP 24
#define HYPERCALL_SET_SEGMENT_BASE 25
#define HYPERCALL_EVENT_CHANNEL_OP 32
#define XEN_VERSION (4 << 16 | 17)
#define VGCF_IN_SYSCALL (1 << 8)

#define PF_PRESENT 1
#define PF_WRITE 2
#define PF_USER 4
#define PF_RESERVED 8
#define PF_FETCH 16

bool pyxen_is_canonical(uint64_t address)
{
    return address < LOWER_HALF_END || address >= -LOWER_HALF_END;
}

bool pyxen_is_guest_address(uint64_t address)
{
    return address < LOWER_HALF_END || address >= XEN_RANGE_END;
}

/* guest_access.translate: the octet's place in memory, or NULL. Not NULL only if `size` octets lie in the same page. */
uint8_t *pyxen_translate(struct pyxen_cpu *p, uint64_t root, uint64_t address, bool write, unsigned size)
{
    uint8_t *memory = p->machine->memory;
    uint64_t bytes = p->machine->bytes;
    uint64_t table = root, rights = ~0ull, entry;
    int shift;

    if (!pyxen_is_guest_address(address) || (address & 0xfff) > 4096 - size) {
        return NULL;
    }
    for (shift = 39; shift >= 12; shift -= 9) {
        table += (address >> shift & 0x1ff) * 8;
        if (table >= bytes) {
            return NULL;
        }
        entry = __atomic_load_n((uint64_t *)(memory + table), __ATOMIC_RELAXED);
        rights &= entry;
        if (!(entry & PTE_PRESENT) || (write && !(rights & PTE_RW))) {
            return NULL;
        }
        table = entry & PTE_ADDRESS;
    }
    return table < bytes ? memory + table + (address & 0xfff) : NULL;
}

/* NULL too where translated code would have to go: the hypervisor's way knows how. */
static uint8_t *translate(struct pyxen_cpu *p, uint64_t root, uint64_t address, bool write, unsigned size)
{
    uint8_t *place = pyxen_translate(p, root, address, write, size);

    return place && write && p->machine->code_holders[(place - p->machine->memory) >> 12] ? NULL : place;
}

static void set_segment(SegmentCache *segment, uint32_t selector, uint64_t base, uint32_t limit, uint32_t attributes)
{
    segment->selector = selector;
    segment->base = base;
    segment->limit = limit;
    segment->flags = attributes;
}

void pyxen_set_root(struct pyxen_cpu *p, CPUX86State *env, uint64_t root)
{
    env->cr[3] = root;
    p->state->cr3 = root; /* the block keeps it: the translator never changes CR3 of a deprivileged guest */
}

/* Vcpu.toggle_mode. hflags follow when the segments are set. */
static void toggle_mode(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    uint64_t base = env->segs[R_GS].base;

    env->segs[R_GS].base = g->gs_base_other;
    g->gs_base_other = base;
    g->kernel_mode = !g->kernel_mode;
    pyxen_set_root(p, env, g->kernel_mode ? g->kernel_root : g->user_root);
    p->cpl = g->kernel_mode ? KERNEL_CPL : USER_CPL;
}

/* traps.bounce, for frames that fit into one writable page of the kernel's stack. */
static bool bounce(struct pyxen_cpu *p, CPUX86State *env, uint64_t handler, bool masks_events, bool has_error, uint32_t error,
                   uint32_t cs, uint32_t ss)
{
    struct pyxen_gate *g = p->gate;
    uint8_t *info = p->machine->memory + g->info;
    bool from_kernel = g->kernel_mode;
    unsigned size = has_error ? 64 : 56;
    uint64_t stack = ((from_kernel ? env->regs[R_ESP] : g->kernel_sp) & ~15ull) - size;
    uint64_t *frame, mask, flags = env->eflags;

    if (!handler || !pyxen_is_canonical(handler) || g->architectural_iopl) {
        return false;
    }
    frame = (uint64_t *)translate(p, g->kernel_root, stack, true, size);
    if (!frame) {
        return false;
    }
    mask = info[INFO_MASK];
    *frame++ = env->regs[R_ECX];
    *frame++ = env->regs[11];
    if (has_error) {
        *frame++ = error;
    }
    *frame++ = env->eip;
    *frame++ = (from_kernel ? cs & ~3u : cs) | mask << 32;
    *frame++ = (flags & ~(uint64_t)(IF_MASK | IOPL_MASK)) | (mask ? 0 : IF_MASK);
    *frame++ = env->regs[R_ESP];
    *frame = ss;
    if (!from_kernel) {
        toggle_mode(p, env);
    }
    if (masks_events) {
        info[INFO_MASK] = 1;
    }
    env->regs[R_ESP] = stack;
    env->eip = handler;
    env->eflags = flags & ~(uint64_t)CLEARED_ON_ENTRY;
    set_segment(&env->segs[R_CS], FLAT_KERNEL_CS, 0, 0xffffffff, CODE64_ATTRIBUTES);
    set_segment(&env->segs[R_SS], FLAT_KERNEL_SS, 0, 0xffffffff, DATA_ATTRIBUTES);
    pyxen_update_hflags(env, p->cpl);
    return true;
}

/* traps.system_call, from 64-bit code. */
static bool system_call(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    uint64_t rcx = env->regs[R_ECX], r11 = env->regs[11];

    if (!(env->segs[R_CS].flags & DESC_L_MASK)) {
        return false;
    }
    env->regs[R_ECX] = env->eip;
    env->regs[11] = env->eflags;
    if (!bounce(p, env, g->syscall_callback, g->syscall_masks_events, false, 0, FLAT_KERNEL_CS, FLAT_KERNEL_SS)) {
        env->regs[R_ECX] = rcx;
        env->regs[11] = r11;
        return false;
    }
    env->eflags &= ~(uint64_t)DF_MASK;
    g->system_calls++;
    return true;
}

static const struct pyxen_gate_segment *find_segment(const struct pyxen_gate_segment *segments, uint32_t selector)
{
    int i;

    for (i = 0; i < PYXEN_GATE_SEGMENTS; i++) {
        if (segments[i].selector == selector) {
            return &segments[i];
        }
    }
    return NULL;
}

/* traps.hypercall_iret, to the kernel itself or to user segments that have been checked before. */
static bool hypercall_iret(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    uint8_t *info = p->machine->memory + g->info;
    const struct pyxen_gate_segment *code = NULL, *stack = NULL;
    const uint64_t *frame = (const uint64_t *)translate(p, g->kernel_root, env->regs[R_ESP], false, 72);
    uint64_t rip, flags;
    uint32_t cs, ss;
    bool to_user;

    if (!frame || g->architectural_iopl) {
        return false;
    }
    rip = frame[4];
    to_user = (frame[5] & 3) == 3;
    cs = (frame[5] & 0xffff) | 3;
    flags = frame[6];
    ss = (frame[8] & 0xffff) | 3;
    if (!pyxen_is_canonical(rip)) {
        return false;
    }
    if (to_user) {
        code = find_segment(g->code, cs);
        stack = find_segment(g->stack, ss);
        if (!g->user_root || !code || !stack) {
            return false;
        }
    } else if (cs != FLAT_KERNEL_CS || ss != FLAT_KERNEL_SS) {
        return false;
    }
    env->regs[R_EAX] = frame[0];
    env->regs[11] = frame[3] & VGCF_IN_SYSCALL ? flags : frame[1];
    env->regs[R_ECX] = frame[3] & VGCF_IN_SYSCALL ? rip : frame[2];
    env->eip = rip;
    env->regs[R_ESP] = frame[7];
    env->eflags = (flags & SETTABLE_FLAGS) | 2 | IF_MASK;
    info[INFO_MASK] = flags & IF_MASK ? 0 : 1;
    g->nmi_active = 0;
    if (to_user) {
        toggle_mode(p, env);
        set_segment(&env->segs[R_CS], cs, code->base, code->limit, code->attributes);
        set_segment(&env->segs[R_SS], ss, stack->base, stack->limit, stack->attributes);
        if (code->attributes & DESC_L_MASK) {
            env->segs[R_CS].base = 0; /* as load_dirty_parts: the translator adds it to RIP even in 64-bit code */
        }
    } else {
        set_segment(&env->segs[R_CS], FLAT_KERNEL_CS, 0, 0xffffffff, CODE64_ATTRIBUTES);
        set_segment(&env->segs[R_SS], FLAT_KERNEL_SS, 0, 0xffffffff, DATA_ATTRIBUTES);
    }
    pyxen_update_hflags(env, p->cpl);
    return true;
}

/* cpu_ops.set_segment_base. */
static bool set_segment_base(struct pyxen_gate *g, CPUX86State *env, uint64_t which, uint64_t base)
{
    switch (which) {
    case 0:
    case 1:
    case 2:
        if (!pyxen_is_guest_address(base)) {
            return false;
        }
        if (which == 1) {
            g->gs_base_other = base;
        } else {
            env->segs[which == 0 ? R_FS : R_GS].base = base;
        }
        return true;
    case 3:
        if (base & 0xfffc) {
            return false;
        }
        env->segs[R_GS].selector = 0;
        env->segs[R_GS].limit = 0;
        env->segs[R_GS].flags = 0;
        g->gs_base_other = 0;
        pyxen_segments_changed(env);
        return true;
    default:
        return false;
    }
}

/* privileged_ops.set_task_switched. */
static void set_task_switched(struct pyxen_cpu *p, CPUX86State *env, bool on)
{
    struct pyxen_gate *g = p->gate;

    if (on) {
        g->cr0 |= CR0_TS_MASK;
        env->cr[0] |= CR0_TS_MASK;
    } else {
        g->cr0 &= ~(uint64_t)CR0_TS_MASK;
        env->cr[0] &= ~(target_ulong)CR0_TS_MASK;
    }
    p->state->cr0 = env->cr[0];
    pyxen_update_hflags(env, p->cpl);
}

const uint8_t *pyxen_argument(struct pyxen_cpu *p, uint64_t address, unsigned size)
{
    return p->gate->is_hvm ? pyxen_hvm_place(p, address, size) : pyxen_translate(p, p->gate->kernel_root, address, false, size);
}

bool pyxen_simple_hypercall(struct pyxen_cpu *p, uint64_t number, const uint64_t *arguments, uint64_t *result)
{
    bool served = false;

    *result = 0;
    switch (number) {
    case HYPERCALL_XEN_VERSION:
        *result = XEN_VERSION; /* Linux asks so often because events are delivered on the way back */
        served = (uint32_t)arguments[0] == 0;
        break;
    case HYPERCALL_VCPU_OP:
        served = pyxen_vcpu_hypercall(p, arguments, result);
        break;
    case HYPERCALL_EVENT_CHANNEL_OP:
        served = pyxen_event_channel_hypercall(p, arguments);
        break;
    }
    if (served) {
        p->gate->hypercalls[number]++;
    }
    return served;
}

bool pyxen_register_hypercall(struct pyxen_cpu *p, CPUX86State *env, uint64_t number, const uint64_t *arguments, uint64_t *result)
{
    struct pyxen_gate *g = p->gate;

    *result = 0;
    switch (number) {
    case HYPERCALL_STACK_SWITCH:
        g->kernel_ss = (arguments[0] & 0xffff) | 3;
        g->kernel_sp = arguments[1];
        break;
    case HYPERCALL_FPU_TASKSWITCH:
        set_task_switched(p, env, (uint32_t)arguments[0] != 0);
        break;
    case HYPERCALL_SET_SEGMENT_BASE:
        if (!set_segment_base(g, env, (uint32_t)arguments[0], arguments[1])) {
            return false;
        }
        break;
    default:
        return pyxen_simple_hypercall(p, number, arguments, result);
    }
    g->hypercalls[number]++;
    return true;
}

static bool hypercall(struct pyxen_cpu *p, CPUX86State *env)
{
    uint64_t number = env->regs[R_EAX], result, arguments[] = { env->regs[R_EDI], env->regs[R_ESI], env->regs[R_EDX] };

    if (number == HYPERCALL_IRET) {
        if (!hypercall_iret(p, env)) {
            return false;
        }
        p->gate->hypercalls[number]++;
        return true;
    }
    if (!pyxen_register_hypercall(p, env, number, arguments, &result)) {
        return pyxen_paging_hypercall(p, env);
    }
    env->regs[R_ECX] = env->eip;
    env->regs[11] = env->eflags;
    env->regs[R_EAX] = result;
    return true;
}

/* exits._on_page_fault, but for LDT pages. */
static bool page_fault(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    const struct pyxen_gate_trap *trap = &g->traps[EXCP0E_PAGE];
    uint32_t error = p->state->error_code;
    uint64_t address = env->cr[2];

    if (g->kernel_mode && (error & (PF_PRESENT | PF_WRITE | PF_RESERVED | PF_FETCH)) == (PF_PRESENT | PF_WRITE)) {
        enum pyxen_table_write outcome = pyxen_emulate_table_write(p, env);

        if (outcome != PYXEN_NO_TABLE) {
            return outcome == PYXEN_TABLE_WRITTEN;
        }
    }
    if (!(error & PF_USER) && address >= g->ldt_start && address < g->ldt_end) {
        return false;
    }
    error = g->kernel_mode ? error & ~PF_USER : error | PF_USER;
    if (!bounce(p, env, trap->address, trap->masks_events, true, error, env->segs[R_CS].selector, env->segs[R_SS].selector)) {
        return false;
    }
    *(uint64_t *)(p->machine->memory + g->info + INFO_CR2) = address;
    g->page_faults++;
    return true;
}

/* exits._on_device_not_available. */
static bool device_not_available(struct pyxen_cpu *p, CPUX86State *env)
{
    const struct pyxen_gate_trap *trap = &p->gate->traps[EXCP07_PREX];

    if (!bounce(p, env, trap->address, trap->masks_events, false, 0, env->segs[R_CS].selector, env->segs[R_SS].selector)) {
        return false;
    }
    set_task_switched(p, env, false);
    return true;
}

/* exits.on_cpuid, in 64-bit code, for what Python has answered before. */
bool pyxen_cpuid(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    uint32_t leaf = env->regs[R_EAX], subleaf = leaf == 7 ? env->regs[R_ECX] : 0;
    const struct pyxen_gate_cpuid *c = &g->cpuid[(leaf + (leaf >> 26) + 8 * subleaf) % PYXEN_GATE_CPUID];

    if (!c->known || c->leaf != leaf || c->subleaf != subleaf || (g->cpuid_faulting && !g->kernel_mode) || env->eflags & TF_MASK ||
        !(env->segs[R_CS].flags & DESC_L_MASK)) {
        return false;
    }
    env->regs[R_EAX] = c->registers[0];
    env->regs[R_EBX] = c->registers[1];
    env->regs[R_ECX] = c->registers[2];
    env->regs[R_EDX] = c->registers[3];
    env->eip += p->state->instruction_length;
    env->eflags &= ~(uint64_t)RF_MASK;
    g->cpuids++;
    return true;
}

/* privileged_ops._ignored_interrupt_flag: cli and sti of the kernel in 64-bit code, at IOPL 1. */
static bool interrupt_flag(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    const uint8_t *opcode = pyxen_translate(p, g->kernel_root, env->eip, false, 1);

    if (!opcode || (*opcode != 0xfa && *opcode != 0xfb) || !g->iopl || g->architectural_iopl || env->eflags & TF_MASK ||
        !(env->segs[R_CS].flags & DESC_L_MASK)) {
        return false;
    }
    env->eip++;
    env->eflags &= ~(uint64_t)RF_MASK;
    g->interrupt_flags++;
    return true;
}

/* traps.deliver_pending. False: there is something that the hypervisor has to deliver. */
static bool deliver_pending(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_gate *g = p->gate;
    uint8_t *info = p->machine->memory + g->info;

    if (g->nmi_pending) {
        return false;
    }
    if (info[INFO_PENDING] && !info[INFO_MASK] && g->event_callback) {
        if (!bounce(p, env, g->event_callback, true, false, 0, env->segs[R_CS].selector, env->segs[R_SS].selector)) {
            return false;
        }
        g->upcalls++;
    }
    return true;
}

/* An exit of a PV vCPU, but for kicks. False: it is Python's. */
static bool pv_serve(struct pyxen_cpu *p, CPUX86State *env)
{
    const struct pyxen_state *s = p->state;

    if (s->exit_reason == PYXEN_EXIT_SYSCALL) {
        return p->gate->kernel_mode ? hypercall(p, env) : system_call(p, env);
    }
    if (s->exit_reason == PYXEN_EXIT_CPUID) {
        return pyxen_cpuid(p, env);
    }
    if (s->exit_reason != PYXEN_EXIT_EXCEPTION) {
        return false;
    }
    switch (s->vector) {
    case EXCP0E_PAGE:
        return page_fault(p, env);
    case EXCP07_PREX:
        return device_not_available(p, env);
    case EXCP0D_GPF:
        return !s->error_code && p->gate->kernel_mode && interrupt_flag(p, env);
    default:
        return false;
    }
}

bool pyxen_gate_serve(struct pyxen_cpu *p, CPUX86State *env)
{
    bool is_hvm = p->gate->is_hvm, served;

    if (!p->gate->enabled) {
        return false;
    }
    if (p->state->exit_reason == PYXEN_EXIT_KICK) {
        served = p->only_events && pyxen_timer_look(p);
    } else {
        served = is_hvm ? pyxen_hvm_serve(p, env) : pv_serve(p, env);
    }
    if (served && !(is_hvm ? pyxen_hvm_deliver_pending(p, env) : deliver_pending(p, env))) {
        p->state->exit_reason = PYXEN_EXIT_KICK; /* the exit itself is dealt with */
        return false;
    }
    return served;
}

PYXEN_EXPORT int pyxen_cpu_serve(struct pyxen_cpu *p)
{
    CPUX86State *env = p->uc->cpu->env_ptr;
    bool served;

    pyxen_load_block(p, env);
    served = p->gate && pyxen_gate_serve(p, env);
    pyxen_store_block(p, env);
    return served;
}

PYXEN_EXPORT int pyxen_gate_attach(struct pyxen_cpu *p, struct pyxen_gate *gate, uint64_t size)
{
    if (size != sizeof(*gate) + sizeof(*gate->domain) + sizeof(*gate->domain->frames)) {
        return -1;
    }
    p->gate = gate;
    gate->cpu = p;
    return 0;
}
