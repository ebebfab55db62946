/*
 * From the block that is shared with the hypervisor into the engine, and back.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define CR0_FLUSHES (CR0_PG_MASK | CR0_WP_MASK | CR0_PE_MASK)
#define CR4_FLUSHES (CR4_PGE_MASK | CR4_PAE_MASK | CR4_PSE_MASK | CR4_SMEP_MASK | CR4_SMAP_MASK | CR4_LA57_MASK | CR4_PKE_MASK)
/* Type, S, DPL, P, AVL, L, D/B, G: the bits of a descriptor's second doubleword that are neither base nor limit. */
#define ATTRIBUTES_MASK 0x00f0ff00u
/* Of a descriptor: the task-state segment is in use. */
#define TSS_BUSY (1u << 9)

void pyxen_set_block_defaults(struct pyxen_cpu *p)
{
    struct pyxen_state *s = p->state;
    int i;

    memset(s, 0, sizeof(*s));
    s->rflags = 2;
    s->cr0 = CR0_PE_MASK | CR0_MP_MASK | CR0_ET_MASK | CR0_NE_MASK | CR0_WP_MASK;
    s->cr4 = CR4_PAE_MASK | CR4_OSFXSR_MASK | CR4_OSXMMEXCPT_MASK;
    s->efer = MSR_EFER_SCE | MSR_EFER_LME | MSR_EFER_LMA | MSR_EFER_NXE;
    s->dr[6] = DR6_FIXED_1;
    s->dr[7] = DR7_FIXED_1;
    s->cpl = p->deprivileged ? 1 : 0;
    for (i = 0; i < 6; i++) {
        s->segs[i].limit = 0xffffffff;
        s->segs[i].attributes = i == R_CS ? 0x00a0fb00 : 0x00c0f300; /* flat, 64-bit code; flat data */
    }
    s->tr.attributes = 0x8b00; /* busy 64-bit TSS of no length: every look into it faults */
    s->ldt.attributes = 0x8200;
    s->dirty = PYXEN_DIRTY_SEGMENTS | PYXEN_DIRTY_TABLES | PYXEN_DIRTY_CONTROL | PYXEN_DIRTY_DEBUG | PYXEN_DIRTY_MSRS |
               PYXEN_DIRTY_FLUSH_TLB;
}

static void load_segment(SegmentCache *to, const struct pyxen_segment *from)
{
    to->selector = from->selector & 0xffff;
    to->base = from->base;
    to->limit = from->limit;
    to->flags = from->attributes & ATTRIBUTES_MASK;
}

static void store_segment(struct pyxen_segment *to, const SegmentCache *from)
{
    to->selector = from->selector;
    to->base = from->base;
    to->limit = from->limit;
    to->attributes = from->flags & ATTRIBUTES_MASK;
}

static void load_control(struct pyxen_cpu *p, CPUX86State *env)
{
    const struct pyxen_state *s = p->state;

    if (((s->cr0 ^ env->cr[0]) & CR0_FLUSHES) || ((s->cr4 ^ env->cr[4]) & CR4_FLUSHES) || ((s->efer ^ env->efer) & MSR_EFER_NXE)) {
        p->state->dirty |= PYXEN_DIRTY_FLUSH_TLB;
    }
    env->cr[0] = s->cr0 | CR0_ET_MASK;
    env->cr[2] = s->cr2;
    env->cr[3] = s->cr3;
    env->cr[4] = s->cr4;
    env->efer = s->efer;
}

/* hflags is what translated code depends on; all of it follows from the block. */
void pyxen_update_hflags(CPUX86State *env, uint32_t cpl)
{
    uint32_t h = env->hflags & (HF_IOBPT_MASK | HF_INHIBIT_IRQ_MASK | PYXEN_HF_SSE_CHECKED);
    const SegmentCache *segs = env->segs;

    h |= cpl & HF_CPL_MASK;
    h |= env->cr[0] & CR0_PE_MASK ? HF_PE_MASK : 0;
    h |= (env->cr[0] << (HF_MP_SHIFT - 1)) & (HF_MP_MASK | HF_EM_MASK | HF_TS_MASK);
    h |= env->cr[4] & CR4_OSFXSR_MASK ? HF_OSFXSR_MASK : 0;
    h |= env->cr[4] & CR4_SMAP_MASK ? HF_SMAP_MASK : 0;
    h |= env->efer & MSR_EFER_LMA ? HF_LMA_MASK : 0;
    if ((h & HF_LMA_MASK) && (segs[R_CS].flags & DESC_L_MASK)) {
        h |= HF_CS64_MASK | HF_CS32_MASK | HF_SS32_MASK;
    } else {
        h |= segs[R_CS].flags & DESC_B_MASK ? HF_CS32_MASK : 0;
        h |= segs[R_SS].flags & DESC_B_MASK ? HF_SS32_MASK : 0;
        if (!(h & HF_PE_MASK) || !(h & HF_CS32_MASK) || (segs[R_DS].base | segs[R_ES].base | segs[R_SS].base)) {
            h |= HF_ADDSEG_MASK;
        }
    }
    env->hflags = h;
    pyxen_segments_changed(env);
}

static void load_debug(struct pyxen_cpu *p, CPUX86State *env)
{
    const struct pyxen_state *s = p->state;
    bool active = (env->dr[7] | s->dr[7]) & 0xff; /* an enabled breakpoint, before or after */
    int i;

    if (active) {
        cpu_x86_update_dr7(env, 0); /* takes the old ones out, and drops the blocks that they are compiled into */
    }
    for (i = 0; i < 4; i++) {
        env->dr[i] = s->dr[i];
    }
    env->dr[6] = s->dr[6];
    if (active) {
        cpu_x86_update_dr7(env, s->dr[7]);
    } else {
        env->dr[7] = s->dr[7] | DR7_FIXED_1;
    }
}

static void load_dirty_parts(struct pyxen_cpu *p, CPUX86State *env)
{
    struct pyxen_state *s = p->state;
    uint32_t dirty = s->dirty;
    int i;

    if (dirty & PYXEN_DIRTY_CONTROL) {
        load_control(p, env);
    }
    if (dirty & PYXEN_DIRTY_SEGMENTS) {
        for (i = 0; i < 6; i++) {
            load_segment(&env->segs[i], &s->segs[i]);
        }
        if ((env->efer & MSR_EFER_LMA) && (env->segs[R_CS].flags & DESC_L_MASK)) {
            env->segs[R_CS].base = 0; /* the translator adds it to RIP even in 64-bit code */
        }
        p->cpl = s->cpl & 3;
    }
    if (dirty & (PYXEN_DIRTY_SEGMENTS | PYXEN_DIRTY_CONTROL)) {
        pyxen_update_hflags(env, p->cpl);
    }
    if (dirty & PYXEN_DIRTY_TABLES) {
        load_segment(&env->ldt, &s->ldt);
        load_segment(&env->tr, &s->tr);
        env->tr.flags &= ~TSS_BUSY; /* which the engine keeps in memory only */
        env->gdt.base = s->gdt.base;
        env->gdt.limit = s->gdt.limit;
        env->idt.base = s->idt.base;
        env->idt.limit = s->idt.limit;
    }
    if (dirty & PYXEN_DIRTY_DEBUG) {
        load_debug(p, env);
    }
    if (dirty & PYXEN_DIRTY_MSRS) {
        env->star = s->star;
        env->lstar = s->lstar;
        env->cstar = s->cstar;
        env->fmask = s->sfmask;
        env->kernelgsbase = s->kernel_gs_base;
        env->tsc_aux = s->tsc_aux;
        env->sysenter_cs = s->sysenter_cs;
        env->sysenter_esp = s->sysenter_esp;
        env->sysenter_eip = s->sysenter_eip;
    }
    if (s->dirty & PYXEN_DIRTY_FLUSH_TLB) {
        tlb_flush(p->uc->cpu);
    }
    s->dirty = 0;
}

void pyxen_load_block(struct pyxen_cpu *p, CPUX86State *env)
{
    const struct pyxen_state *s = p->state;

    memcpy(env->regs, s->gpr, sizeof(s->gpr));
    env->eip = s->rip;
    if (s->dirty) {
        load_dirty_parts(p, env);
    }
    env->eflags = s->rflags | 2;
    if (env->hflags & HF_LMA_MASK) {
        env->eflags &= ~(uint64_t)VM_MASK; /* not reachable in long mode, and would make the translator think of real mode */
    }
    env->cr[2] = s->cr2;
    if (pyxen_injection_wanted(p)) {
        __atomic_fetch_or(&p->requests, PYXEN_REQUEST_INJECT, __ATOMIC_SEQ_CST);
    } else {
        __atomic_fetch_and(&p->requests, ~PYXEN_REQUEST_INJECT, __ATOMIC_SEQ_CST);
    }
}

void pyxen_store_block(struct pyxen_cpu *p, const CPUX86State *env)
{
    struct pyxen_state *s = p->state;
    int i;

    memcpy(s->gpr, env->regs, sizeof(s->gpr));
    s->rip = env->eip;
    s->rflags = env->eflags; /* complete: cpu_exec_exit has folded the lazy flags in */
    for (i = 0; i < 6; i++) {
        store_segment(&s->segs[i], &env->segs[i]);
    }
    p->cpl = env->hflags & HF_CPL_MASK;
    s->cpl = p->cpl;
    s->cr2 = env->cr[2];
    s->dr[6] = env->dr[6];
    if (p->deprivileged) {
        return; /* the rest takes CPL 0 to change */
    }
    s->cr0 = env->cr[0];
    s->cr3 = env->cr[3];
    s->cr4 = env->cr[4];
    s->efer = env->efer;
    for (i = 0; i < 8; i++) {
        s->dr[i] = env->dr[i];
    }
    s->star = env->star;
    s->lstar = env->lstar;
    s->cstar = env->cstar;
    s->sfmask = env->fmask;
    s->kernel_gs_base = env->kernelgsbase;
    s->tsc_aux = env->tsc_aux;
    s->sysenter_cs = env->sysenter_cs;
    s->sysenter_esp = env->sysenter_esp;
    s->sysenter_eip = env->sysenter_eip;
    store_segment(&s->ldt, &env->ldt);
    store_segment(&s->tr, &env->tr);
    if (env->tr.flags & DESC_P_MASK) {
        s->tr.attributes |= TSS_BUSY;
    }
    s->gdt.base = env->gdt.base;
    s->gdt.limit = env->gdt.limit;
    s->idt.base = env->idt.base;
    s->idt.limit = env->idt.limit;
}

#define OFFSET(field) ((uint32_t)offsetof(struct pyxen_state, field))

PYXEN_EXPORT int pyxen_layout(uint32_t *layout, int room)
{
    static const uint32_t fields[] = {
        PYXEN_ENGINE_VERSION, sizeof(struct pyxen_state), sizeof(struct pyxen_segment), sizeof(struct pyxen_table),
        OFFSET(gpr[0]), OFFSET(gpr[1]), OFFSET(gpr[2]), OFFSET(gpr[3]), OFFSET(gpr[4]), OFFSET(gpr[5]), OFFSET(gpr[6]),
        OFFSET(gpr[7]), OFFSET(gpr[8]), OFFSET(gpr[9]), OFFSET(gpr[10]), OFFSET(gpr[11]), OFFSET(gpr[12]), OFFSET(gpr[13]),
        OFFSET(gpr[14]), OFFSET(gpr[15]), OFFSET(rip), OFFSET(rflags), OFFSET(cr0), OFFSET(cr2), OFFSET(cr3), OFFSET(cr4),
        OFFSET(efer), OFFSET(dr), OFFSET(star), OFFSET(lstar), OFFSET(cstar), OFFSET(sfmask), OFFSET(kernel_gs_base),
        OFFSET(tsc_aux), OFFSET(segs), OFFSET(ldt), OFFSET(tr), OFFSET(gdt), OFFSET(idt), OFFSET(cpl), OFFSET(dirty),
        OFFSET(exit_reason), OFFSET(vector), OFFSET(error_code), OFFSET(instruction_length), OFFSET(qualification),
        OFFSET(sysenter_cs), OFFSET(sysenter_esp), OFFSET(sysenter_eip), OFFSET(injection), OFFSET(injection_error_code),
        OFFSET(interrupt_window), OFFSET(rdtsc_exits), OFFSET(tsc_scale), OFFSET(tsc_offset), OFFSET(cr8),
    };
    int count = sizeof(fields) / sizeof(fields[0]);
    int i;

    for (i = 0; i < count && i < room; i++) {
        layout[i] = fields[i];
    }
    return count;
}
