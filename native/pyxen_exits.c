/*
 * What leaves the guest: instructions that are the hypervisor's, exceptions, and requests of other threads.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/cpu_ldst.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "qemu/timer.h"
#include "uc_priv.h"

#include "pyxen_hooks.h"
#include "pyxen_internal.h"

/* An exit is recorded in the block; leave cpu_exec. Above EXCP_INTERRUPT and its neighbours, below nothing. */
#define EXCP_PYXEN 0x10100

void pyxen_record_exit(struct pyxen_cpu *p, uint32_t reason, uint32_t instruction_length, uint64_t qualification)
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
    pyxen_record_exit(env->uc->pyxen, reason, env->pyxen_length, qualification);
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

void pyxen_rdtsc(CPUX86State *env, bool is_rdtscp, uintptr_t retaddr)
{
    const struct pyxen_state *s = env->uc->pyxen->state;
    uint64_t tsc;

    if ((env->cr[4] & CR4_TSD_MASK) && (env->hflags & HF_CPL_MASK)) {
        raise_exception_ra(env, EXCP0D_GPF, retaddr);
    }
    if (s->rdtsc_exits) {
        leave_for(env, PYXEN_EXIT_RDTSC, is_rdtscp, retaddr);
    }
    __builtin_ia32_lfence(); /* the guest's own orders it, but is no instruction of the host in translated code */
    tsc = cpu_get_host_ticks();
    if (s->tsc_scale) {
        tsc = (unsigned __int128)tsc * s->tsc_scale >> 48;
    }
    tsc += s->tsc_offset;
    env->regs[R_EAX] = (uint32_t)tsc;
    env->regs[R_EDX] = tsc >> 32;
    if (is_rdtscp) {
        env->regs[R_ECX] = (uint32_t)env->tsc_aux;
    }
}

void pyxen_exit_halt(CPUX86State *env)
{
    env->hflags &= ~HF_INHIBIT_IRQ_MASK; /* sti; hlt */
    pyxen_record_exit(env->uc->pyxen, PYXEN_EXIT_HALT, 1, 0);
    leave(env, 0);
}

void pyxen_exit_far_transfer(CPUX86State *env, uintptr_t retaddr)
{
    uint32_t cpl = env->hflags & HF_CPL_MASK;

    if (env->uc->pyxen->deprivileged && cpl > 0 && cpl < 3) {
        pyxen_record_exit(env->uc->pyxen, PYXEN_EXIT_FAR_TRANSFER, 0, 0);
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
    pyxen_record_exit(env->uc->pyxen, PYXEN_EXIT_TRIPLE_FAULT, 0, 0);
    leave(env, retaddr);
}

void pyxen_bad_memory(CPUState *cs, uint64_t address)
{
    CPUX86State *env = cs->env_ptr;

    pyxen_record_exit(cs->uc->pyxen, PYXEN_EXIT_BAD_MEMORY, 0, address);
    leave(env, env->retaddr);
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
    pyxen_record_exit(env->uc->pyxen, is_sysenter ? PYXEN_EXIT_SYSENTER : PYXEN_EXIT_SYSCALL, length, 0);
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
        pyxen_record_exit(p, PYXEN_EXIT_SOFTWARE_INTERRUPT, env->exception_next_eip - env->eip, 0);
        env->eip = env->exception_next_eip;
        s->error_code = 0;
    } else {
        pyxen_record_exit(p, PYXEN_EXIT_EXCEPTION, 0, 0);
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
    pyxen_operand_abandoned(p);
    p->running_alone = false;
    p->watch_hits = 0;
    if (index < EXCP_VMEXIT) {
        if (!p->deprivileged) {
            if (index == EXCP06_ILLOP && is_hypercall(env)) {
                pyxen_record_exit(p, PYXEN_EXIT_HYPERCALL, 3, 0);
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
        pyxen_record_exit(p, PYXEN_EXIT_INTERNAL_ERROR, 0, index);
        break;
    }
    *ret = EXCP_PYXEN;
    return true;
}

/* Between two blocks: RIP and the flags are what they are. */
void pyxen_leave_at_boundary(struct pyxen_cpu *p, uint32_t reason)
{
    pyxen_record_exit(p, reason, 0, 0);
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
    if (requests & PYXEN_REQUEST_FLUSH) {
        *last_tb = NULL; /* the next block may be another page's */
        pyxen_flush_as_asked(p);
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
    if (requests & (PYXEN_REQUEST_KICK | PYXEN_REQUEST_EVENTS)) {
        __atomic_fetch_and(&p->requests, ~(PYXEN_REQUEST_KICK | PYXEN_REQUEST_EVENTS), __ATOMIC_SEQ_CST);
        p->only_events = !(requests & PYXEN_REQUEST_KICK);
        pyxen_leave_at_boundary(p, PYXEN_EXIT_KICK);
        return true;
    }
    return false;
}
