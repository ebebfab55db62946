/*
 * pyxen's virtual CPU on top of the engine's translator: load the shared block, run until an exit, store it back.
 *
 * Compiled inside the engine (see native/build.py), so it sees CPUX86State by name. One struct pyxen_cpu is one engine instance
 * with one CPU in it; a vCPU is run by one thread at a time, and only the functions that say so may be called from others.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "exec/ram_addr.h"
#include "qemu/timer.h"
#include "sysemu/cpus.h"
#include "tcg/tcg.h"
#include "uc_priv.h"
#include "unicorn/x86.h"

#include "pyxen_cpu.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* Between two looks whether a CPU has left the guest. */
#define HALT_POLL_US 50

/* An exit is recorded in the block; leave cpu_exec. Above EXCP_INTERRUPT and its neighbours, below nothing. */
#define EXCP_PYXEN 0x10100

#define CR0_FLUSHES (CR0_PG_MASK | CR0_WP_MASK | CR0_PE_MASK)
#define CR4_FLUSHES (CR4_PGE_MASK | CR4_PAE_MASK | CR4_PSE_MASK | CR4_SMEP_MASK | CR4_SMAP_MASK | CR4_LA57_MASK | CR4_PKE_MASK)
/* Type, S, DPL, P, AVL, L, D/B, G: the bits of a descriptor's second doubleword that are neither base nor limit. */
#define ATTRIBUTES_MASK 0x00f0ff00u
/* Of a descriptor: the task-state segment is in use. */
#define TSS_BUSY (1u << 9)
/* A #PF needs this much of a page-table entry; the accessed and dirty bits may be set at any time. */
#define PTE_SET_BY_CPU (PG_ACCESSED_MASK | PG_DIRTY_MASK)

static void set_block_defaults(struct pyxen_cpu *p)
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

/* ------------------------------------------------------------------ from the block into the engine, and back */

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

static void load_block(struct pyxen_cpu *p, CPUX86State *env)
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

static void store_block(struct pyxen_cpu *p, const CPUX86State *env)
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

/* ------------------------------------------------------------------ exits */

static void record_exit(struct pyxen_cpu *p, uint32_t reason, uint32_t instruction_length, uint64_t qualification)
{
    p->state->exit_reason = reason;
    p->state->instruction_length = instruction_length;
    p->state->qualification = qualification;
}

/* Leave the block from within a helper. RIP is at the instruction if retaddr is given or the translator has stored it. */
static void QEMU_NORETURN leave(CPUX86State *env, uintptr_t retaddr)
{
    CPUState *cs = env_cpu(env);

    cs->exception_index = EXCP_PYXEN;
    cpu_loop_exit_restore(cs, retaddr);
}

static void QEMU_NORETURN leave_for(CPUX86State *env, uint32_t reason, uint64_t qualification, uintptr_t retaddr)
{
    record_exit(env->uc->pyxen, reason, env->pyxen_length, qualification);
    leave(env, retaddr);
}

void pyxen_internal_error(CPUX86State *env, uint64_t what, uintptr_t retaddr)
{
    leave_for(env, PYXEN_EXIT_INTERNAL_ERROR, what, retaddr);
}

void pyxen_exit_cpuid(CPUX86State *env, uintptr_t retaddr)
{
    if (env->uc->pyxen->exit_on_cpuid) {
        leave_for(env, PYXEN_EXIT_CPUID, 0, retaddr);
    }
}

void pyxen_exit_msr(CPUX86State *env, bool write, uintptr_t retaddr)
{
    leave_for(env, write ? PYXEN_EXIT_WRMSR : PYXEN_EXIT_RDMSR, (uint32_t)env->regs[R_ECX], retaddr);
}

void pyxen_exit_halt(CPUX86State *env)
{
    env->hflags &= ~HF_INHIBIT_IRQ_MASK; /* sti; hlt */
    record_exit(env->uc->pyxen, PYXEN_EXIT_HALT, 1, 0);
    leave(env, 0);
}

void pyxen_exit_far_transfer(CPUX86State *env, uintptr_t retaddr)
{
    uint32_t cpl = env->hflags & HF_CPL_MASK;

    if (env->uc->pyxen->deprivileged && cpl > 0 && cpl < 3) {
        record_exit(env->uc->pyxen, PYXEN_EXIT_FAR_TRANSFER, 0, 0);
        leave(env, retaddr);
    }
}

/* A deprivileged kernel's 64-bit IRET to its own CS and SS changes no segment and no privilege: then it is done here, as at the
   ring 3 that the kernel believes to run in. IF and IOPL stay. False: the hypervisor's. */
bool pyxen_iret_to_itself(CPUX86State *env, int shift, uintptr_t retaddr)
{
    const int from_frame = TF_MASK | NT_MASK | RF_MASK | AC_MASK | ID_MASK;
    uint32_t cpl = env->hflags & HF_CPL_MASK;
    uint64_t frame = env->regs[R_ESP];
    uint64_t rip, flags, rsp;

    if (!env->uc->pyxen->deprivileged || cpl == 0 || cpl == 3 || shift != 2 || (env->eflags & NT_MASK)) {
        return false;
    }
    if (cpu_ldq_data_ra(env, frame + 8, retaddr) != env->segs[R_CS].selector ||
        cpu_ldq_data_ra(env, frame + 32, retaddr) != env->segs[R_SS].selector) {
        return false;
    }
    rip = cpu_ldq_data_ra(env, frame, retaddr);
    flags = cpu_ldq_data_ra(env, frame + 16, retaddr);
    rsp = cpu_ldq_data_ra(env, frame + 24, retaddr);
    if ((uint64_t)((int64_t)(rip << 16) >> 16) != rip) {
        return false;
    }
    env->eip = rip;
    env->regs[R_ESP] = rsp;
    cpu_load_eflags(env, flags, from_frame);
    if (flags & RF_MASK) {
        env_cpu(env)->cflags_next_tb = 1 | CF_PARALLEL; /* it covers one instruction */
    }
    return true;
}

void pyxen_exit_triple_fault(CPUX86State *env, uintptr_t retaddr)
{
    record_exit(env->uc->pyxen, PYXEN_EXIT_TRIPLE_FAULT, 0, 0);
    leave(env, retaddr);
}

/* The translator has stored RIP and the flags. `info` is an SVM I/O intercept word: 1 in, 4 string, 8 rep, 16/32/64 operand size. */
void helper_pyxen_io(CPUX86State *env, uint32_t port, uint32_t info, uint32_t length)
{
    uint32_t cpl = env->hflags & HF_CPL_MASK;
    uint32_t iopl = (env->eflags & IOPL_MASK) >> IOPL_SHIFT;

    port &= 0xffff;
    if ((env->cr[0] & CR0_PE_MASK) && (cpl > iopl || (env->eflags & VM_MASK))) {
        if (env->uc->pyxen->deprivileged) {
            raise_exception_err(env, EXCP0D_GPF, 0); /* a bitmap, if any, is the hypervisor's to look at */
        }
        switch (info & 0x70) {
        case 0x10:
            helper_check_iob(env, port);
            break;
        case 0x20:
            helper_check_iow(env, port);
            break;
        default:
            helper_check_iol(env, port);
            break;
        }
    }
    env->pyxen_length = length;
    leave_for(env, PYXEN_EXIT_IO, port | (uint64_t)info << 16, 0);
}

/* The upstream helper does not do this any more. As the manual has it. */
static void native_syscall(CPUX86State *env)
{
    uint32_t selector = (env->star >> 32) & 0xffff;
    uint32_t flags = cpu_compute_eflags(env);
    bool code64 = env->hflags & HF_CS64_MASK;
    bool lma = env->hflags & HF_LMA_MASK;
    uint32_t code = DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK | DESC_R_MASK | DESC_A_MASK | DESC_G_MASK;

    env->regs[R_ECX] = lma ? env->eip : (uint32_t)env->eip;
    if (lma) {
        env->regs[11] = flags & ~RF_MASK;
    }
    env->eip = !lma ? (uint32_t)env->star : code64 ? env->lstar : env->cstar;
    cpu_x86_load_seg_cache(env, R_CS, selector & 0xfffc, 0, 0xffffffff, code | (lma ? DESC_L_MASK : DESC_B_MASK));
    cpu_x86_load_seg_cache(env, R_SS, (selector + 8) & 0xfffc, 0, 0xffffffff,
                           DESC_G_MASK | DESC_B_MASK | DESC_P_MASK | DESC_S_MASK | DESC_W_MASK | DESC_A_MASK);
    cpu_load_eflags(env, lma ? flags & ~(env->fmask | RF_MASK) : flags & ~(IF_MASK | RF_MASK | VM_MASK), ~0);
}

static void native_sysenter(CPUX86State *env)
{
    bool lma = env->hflags & HF_LMA_MASK;
    uint32_t code = DESC_G_MASK | DESC_P_MASK | DESC_S_MASK | DESC_CS_MASK | DESC_R_MASK | DESC_A_MASK;

    env->eflags &= ~(VM_MASK | IF_MASK | RF_MASK);
    cpu_x86_load_seg_cache(env, R_CS, env->sysenter_cs & 0xfffc, 0, 0xffffffff, code | (lma ? DESC_L_MASK : DESC_B_MASK));
    cpu_x86_load_seg_cache(env, R_SS, (env->sysenter_cs + 8) & 0xfffc, 0, 0xffffffff,
                           DESC_G_MASK | DESC_B_MASK | DESC_P_MASK | DESC_S_MASK | DESC_W_MASK | DESC_A_MASK);
    env->regs[R_ESP] = env->sysenter_esp;
    env->eip = env->sysenter_eip;
}

void pyxen_system_call(CPUX86State *env, int length, bool is_sysenter, uintptr_t retaddr)
{
    cpu_restore_state(env_cpu(env), retaddr, false);
    if (!env->uc->pyxen->deprivileged) {
        if (is_sysenter ? env->sysenter_cs == 0 : !(env->efer & MSR_EFER_SCE)) {
            raise_exception_err(env, is_sysenter ? EXCP0D_GPF : EXCP06_ILLOP, 0);
        }
        env->eip += length;
        if (is_sysenter) {
            native_sysenter(env);
        } else {
            native_syscall(env);
        }
        return;
    }
    env->eip += length;
    record_exit(env->uc->pyxen, is_sysenter ? PYXEN_EXIT_SYSENTER : PYXEN_EXIT_SYSCALL, length, 0);
    leave(env, 0);
}

/* A deprivileged guest's own selectors all say ring 3, whichever level it runs at; no instruction of its moves it to another. */
int pyxen_new_cpl(CPUX86State *env, int cpl)
{
    struct pyxen_cpu *p = env->uc->pyxen;

    return p && p->deprivileged ? env->hflags & HF_CPL_MASK : cpl;
}

int pyxen_segment_cpl(CPUX86State *env, int cpl)
{
    return env->uc->pyxen->deprivileged && cpl ? 3 : cpl;
}

/* A vector for the hypervisor. */
static void record_vector(struct pyxen_cpu *p, CPUX86State *env, int vector)
{
    struct pyxen_state *s = p->state;

    s->vector = vector;
    if (env->exception_is_int) {
        record_exit(p, PYXEN_EXIT_SOFTWARE_INTERRUPT, env->exception_next_eip - env->eip, 0);
        env->eip = env->exception_next_eip;
        s->error_code = 0;
    } else {
        record_exit(p, PYXEN_EXIT_EXCEPTION, 0, 0);
        s->error_code = env->error_code;
    }
    env->exception_is_int = 0;
    env->error_code = 0;
}

/* VMCALL or VMMCALL, which the translator knows only as invalid. */
static bool is_hypercall(CPUX86State *env)
{
    static const uint8_t vmcall[] = { 0x0f, 0x01, 0xc1 }, vmmcall[] = { 0x0f, 0x01, 0xd9 };

    return pyxen_at_bytes(env, vmcall, sizeof(vmcall)) || pyxen_at_bytes(env, vmmcall, sizeof(vmmcall));
}

bool pyxen_handle_exception(CPUState *cs, int *ret)
{
    CPUX86State *env = cs->env_ptr;
    struct pyxen_cpu *p = cs->uc->pyxen;
    int index = cs->exception_index;

    if (index < 0) {
        return false;
    }
    cs->exception_index = -1;
    p->running_alone = false;
    p->watch_hits = 0;
    if (index < EXCP_VMEXIT) {
        if (!p->deprivileged) {
            if (index == EXCP06_ILLOP && is_hypercall(env)) {
                record_exit(p, PYXEN_EXIT_HYPERCALL, 3, 0);
                *ret = EXCP_PYXEN;
                return true;
            }
            cs->exception_index = index;
            x86_cpu_do_interrupt(cs); /* a nested fault longjmps back to cpu_exec with another index */
            cs->exception_index = -1;
            return false;
        }
        env->old_exception = -1; /* delivery is the hypervisor's; a fault in it is no double fault of ours */
        record_vector(p, env, index);
        *ret = EXCP_PYXEN;
        return true;
    }
    switch (index) {
    case EXCP_INTERRUPT: /* pause, or the code buffer was full */
        return false;
    case EXCP_ATOMIC: /* crosses a page or is watched: one instruction without host atomics */
        cs->cflags_next_tb = 1;
        return false;
    case EXCP_DEBUG:
        breakpoint_handler(cs); /* longjmps with #DB if one of DR0-3 matches */
        return false;
    case EXCP_PYXEN:
        break;
    default:
        record_exit(p, PYXEN_EXIT_INTERNAL_ERROR, 0, index);
        break;
    }
    *ret = EXCP_PYXEN;
    return true;
}

/* Between two blocks: RIP and the flags are what they are. */
void pyxen_leave_at_boundary(struct pyxen_cpu *p, uint32_t reason)
{
    record_exit(p, reason, 0, 0);
    p->uc->cpu->exception_index = EXCP_PYXEN;
}

bool pyxen_stop_requested(CPUState *cs, TranslationBlock **last_tb)
{
    struct pyxen_cpu *p = cs->uc->pyxen;
    uint32_t requests;

    /* The caller has just cleared icount_decr.high. Whoever sets a request sets icount_decr after it, so looking at the requests
       after that store (and not before it, hence the barrier) loses none. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    requests = __atomic_load_n(&p->requests, __ATOMIC_RELAXED);
    if (likely(!requests)) {
        return false;
    }
    if (requests & (PYXEN_REQUEST_WORK | PYXEN_REQUEST_BROADCAST)) {
        *last_tb = NULL; /* may be about to be dropped: no jump is to be patched into it */
        pyxen_do_work(p);
    }
    if (unlikely(requests & PYXEN_REQUEST_DROP_CODE)) {
        __atomic_fetch_and(&p->requests, ~PYXEN_REQUEST_DROP_CODE, __ATOMIC_SEQ_CST);
        *last_tb = NULL;
        tb_flush(cs);
    }
    if ((requests & PYXEN_REQUEST_TRAP) && pyxen_debug_trap(p)) {
        if (p->watch_hits) {
            *last_tb = NULL; /* no jump past our look after the next instruction */
            return false;
        }
        return true; /* a kick, if any, waits */
    }
    p->running_alone = false; /* the stop came before that block: start over */
    if (requests & PYXEN_REQUEST_INJECT) {
        *last_tb = NULL; /* RIP may be somewhere else from here on */
        if (pyxen_inject(p)) {
            return true;
        }
        if (!pyxen_injection_wanted(p)) {
            __atomic_fetch_and(&p->requests, ~PYXEN_REQUEST_INJECT, __ATOMIC_SEQ_CST);
        }
    }
    if (requests & PYXEN_REQUEST_KICK) {
        __atomic_fetch_and(&p->requests, ~PYXEN_REQUEST_KICK, __ATOMIC_SEQ_CST);
        pyxen_leave_at_boundary(p, PYXEN_EXIT_KICK);
        return true;
    }
    return false;
}

/* ------------------------------------------------------------------ physical memory */

void pyxen_bad_memory(CPUState *cs, uint64_t address)
{
    CPUX86State *env = cs->env_ptr;

    record_exit(cs->uc->pyxen, PYXEN_EXIT_BAD_MEMORY, 0, address);
    leave(env, env->retaddr);
}

uint64_t pyxen_read_pte(CPUState *cs, uint64_t address)
{
    struct pyxen_machine *m = cs->uc->pyxen->machine;

    return __atomic_load_n((uint64_t *)(m->memory + address), __ATOMIC_RELAXED); /* pyxen_physical has looked */
}

/* Sets the accessed and dirty bits, unless somebody has just changed the entry: then it is no longer ours to write, and read again. */
void pyxen_set_pte_flags(CPUState *cs, uint64_t address, uint32_t value)
{
    struct pyxen_machine *m = cs->uc->pyxen->machine;
    uint32_t *entry = (uint32_t *)(m->memory + address);
    uint32_t old = __atomic_load_n(entry, __ATOMIC_RELAXED);

    while (((old ^ value) & ~(uint32_t)PTE_SET_BY_CPU) == 0) {
        if (__atomic_compare_exchange_n(entry, &old, old | value, false, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
            return;
        }
    }
    cs->uc->pyxen->entry_changed = true;
}

bool pyxen_entry_changed(CPUState *cs)
{
    struct pyxen_cpu *p = cs->uc->pyxen;
    bool changed = p->entry_changed;

    p->entry_changed = false;
    return changed;
}

/* ------------------------------------------------------------------ the exported functions */

/* The engine's creation touches process-wide tables. */
static pthread_mutex_t creation_lock = PTHREAD_MUTEX_INITIALIZER;

static void set_cpu_features(CPUX86State *env)
{
    /* What the translator can do, minus what a guest would only lose by: XSAVE, of which there is nothing but x87 and SSE state,
       MONITOR, and ERMS (rep movsb is a byte a step here). */
    env->features[FEAT_1_ECX] |= CPUID_EXT_MOVBE | CPUID_EXT_RDRAND;
    env->features[FEAT_1_ECX] &= ~(CPUID_EXT_XSAVE | CPUID_EXT_OSXSAVE | CPUID_EXT_MONITOR | CPUID_EXT_AVX | CPUID_EXT_HYPERVISOR);
    env->features[FEAT_8000_0001_EDX] |= CPUID_EXT2_RDTSCP | CPUID_EXT2_PDPE1GB;
    env->features[FEAT_8000_0001_ECX] |= CPUID_EXT3_ABM;
    env->features[FEAT_7_0_EBX] = CPUID_7_0_EBX_FSGSBASE | CPUID_7_0_EBX_BMI1 | CPUID_7_0_EBX_BMI2 | CPUID_7_0_EBX_ADX |
                                  CPUID_7_0_EBX_SMEP | CPUID_7_0_EBX_SMAP;
    env->features[FEAT_7_0_ECX] = 0;
    env->features[FEAT_7_0_EDX] = 0;
    env->features[FEAT_XSAVE] = 0;
}

static uc_err create_engine(struct pyxen_cpu *p, uint32_t code_bytes)
{
    struct pyxen_machine *m = p->machine;
    uc_engine *uc;
    uc_err err;

    err = uc_open(UC_ARCH_X86, UC_MODE_64, &uc);
    if (err) {
        return err;
    }
    p->uc = uc;
    uc->pyxen = p;
    uc->cpu_model = UC_CPU_X86_WESTMERE;
    uc->tcg_buffer_size = code_bytes;
    err = uc_mem_map_ptr(uc, 0, m->bytes, UC_PROT_ALL, m->memory);
    if (err) {
        return err;
    }
    uc->pyxen_ram = uc->mapped_blocks[0];
    uc->pyxen_ram_bytes = m->bytes;
    if (memory_region_get_ram_addr(uc->pyxen_ram) != 0) {
        return UC_ERR_MAP; /* frames are counted by offset into the block */
    }
    uc->use_exits = 1;     /* and there are none: no address is special */
    uc->nested_level = 1;  /* as within uc_emu_start: the index of the jump buffer, plus one */
    uc->emulation_done = false;
    set_cpu_features(uc->cpu->env_ptr);
    return UC_ERR_OK;
}

PYXEN_EXPORT struct pyxen_cpu *pyxen_cpu_new(struct pyxen_machine *machine, struct pyxen_state *state, uint32_t flags,
                                             uint32_t code_bytes, int *error)
{
    struct pyxen_cpu *p = calloc(1, sizeof(*p));
    CPUX86State *env;

    *error = UC_ERR_NOMEM;
    if (!p) {
        return NULL;
    }
    p->machine = machine;
    __atomic_add_fetch(&machine->references, 1, __ATOMIC_RELAXED);
    p->state = state;
    p->deprivileged = flags & PYXEN_CPU_DEPRIVILEGED;
    p->exit_on_cpuid = flags & PYXEN_CPU_EXIT_ON_CPUID;
    pthread_mutex_init(&p->work_lock, NULL);
    pthread_mutex_init(&p->run_lock, NULL);
    p->code_frames = calloc((machine->frames + 63) / 64, sizeof(uint64_t));
    pthread_mutex_lock(&creation_lock);
    *error = p->code_frames ? create_engine(p, code_bytes) : UC_ERR_NOMEM;
    pthread_mutex_unlock(&creation_lock);
    if (*error) {
        pyxen_cpu_free(p);
        return NULL;
    }
    pyxen_machine_add(machine, p);
    env = p->uc->cpu->env_ptr;
    set_block_defaults(p);
    load_block(p, env);
    pyxen_cpu_reset_fpu(p);
    return p;
}

/* From any thread, also while it runs: it leaves the guest, and no run enters it again. Returns when it has left. */
PYXEN_EXPORT void pyxen_cpu_halt(struct pyxen_cpu *p)
{
    __atomic_store_n(&p->halted, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&p->entered, __ATOMIC_SEQ_CST)) {
        pyxen_request(p, PYXEN_REQUEST_KICK);
        usleep(HALT_POLL_US);
    }
}

PYXEN_EXPORT void pyxen_cpu_free(struct pyxen_cpu *p)
{
    struct pyxen_machine *m = p->machine;

    pyxen_cpu_halt(p);
    pyxen_machine_remove(m, p);
    if (p->uc) {
        pthread_mutex_lock(&creation_lock);
        pyxen_all_code_dropped(p->uc);
        uc_close(p->uc);
        pthread_mutex_unlock(&creation_lock);
    }
    pyxen_free_work(p);
    pyxen_free_pair(p);
    free(p->code_frames);
    pthread_mutex_destroy(&p->run_lock);
    pthread_mutex_destroy(&p->work_lock);
    pthread_mutex_lock(&m->lock);
    p->next_dead = m->dead;
    m->dead = p;
    pthread_mutex_unlock(&m->lock);
    pyxen_machine_put(m);
}

static void set_running(struct pyxen_cpu *p, bool running)
{
    pthread_mutex_lock(&p->run_lock);
    p->running = running;
    pthread_mutex_unlock(&p->run_lock);
}

PYXEN_EXPORT int pyxen_cpu_run(struct pyxen_cpu *p)
{
    uc_engine *uc;
    CPUState *cs;
    CPUX86State *env;
    int reason;

    __atomic_store_n(&p->entered, 1, __ATOMIC_SEQ_CST);
    if (unlikely(__atomic_load_n(&p->halted, __ATOMIC_SEQ_CST))) {
        __atomic_store_n(&p->entered, 0, __ATOMIC_SEQ_CST);
        return PYXEN_EXIT_KICK; /* of the rest, nothing may be there any more */
    }
    uc = p->uc;
    cs = uc->cpu;
    env = cs->env_ptr;
    set_running(p, true);
    load_block(p, env);
    do {
        cs->exception_index = -1;
        cs->halted = 0;
        cs->exit_request = 0;
        uc->size_recur_mem = 0;
        uc->invalid_error = UC_ERR_OK;
        if (unlikely(env->eflags & RF_MASK)) {
            /* RF covers one instruction; the translator would ignore the breakpoints of a whole block. */
            cs->cflags_next_tb = 1 | CF_PARALLEL;
        }
        cpu_exec(uc, cs);
        if (unlikely(uc->invalid_error != UC_ERR_OK)) {
            record_exit(p, PYXEN_EXIT_INTERNAL_ERROR, 0, uc->invalid_error);
        }
    } while (p->gate && pyxen_gate_serve(p, env));
    if (__atomic_load_n(&p->requests, __ATOMIC_RELAXED) & (PYXEN_REQUEST_WORK | PYXEN_REQUEST_BROADCAST)) {
        pyxen_do_work(p); /* the CPU may now sleep for long; the others should not wait for it */
    }
    set_running(p, false);
    store_block(p, env);
    reason = p->state->exit_reason;
    __atomic_store_n(&p->entered, 0, __ATOMIC_RELEASE);
    return reason;
}

void pyxen_request(struct pyxen_cpu *p, uint32_t request)
{
    __atomic_fetch_or(&p->requests, request, __ATOMIC_SEQ_CST);
    __atomic_store_n(&cpu_neg(p->uc->cpu)->icount_decr.u16.high, (uint16_t)-1, __ATOMIC_SEQ_CST);
}

PYXEN_EXPORT void pyxen_cpu_kick(struct pyxen_cpu *p)
{
    pyxen_request(p, PYXEN_REQUEST_KICK);
}

PYXEN_EXPORT void pyxen_cpu_flush_tlb_page(struct pyxen_cpu *p, uint64_t address)
{
    pthread_mutex_lock(&p->run_lock); /* another CPU may be looking at the same entries (pyxen_code.c) */
    tlb_flush_page(p->uc->cpu, address);
    pthread_mutex_unlock(&p->run_lock);
}

PYXEN_EXPORT void pyxen_cpu_cpuid(struct pyxen_cpu *p, uint32_t leaf, uint32_t subleaf, uint32_t *registers)
{
    cpu_x86_cpuid(p->uc->cpu->env_ptr, leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]);
}

PYXEN_EXPORT uint64_t pyxen_tsc(void)
{
    return cpu_get_host_ticks();
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
        OFFSET(interrupt_window), OFFSET(pad),
    };
    int count = sizeof(fields) / sizeof(fields[0]);
    int i;

    for (i = 0; i < count && i < room; i++) {
        layout[i] = fields[i];
    }
    return count;
}
