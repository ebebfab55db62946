/*
 * Checks of memory accesses that the translator leaves out: segment limits and types in compatibility-mode code, and alignment.
 *
 * Flat segments cost nothing: a bit of hflags, and so of what a block is translated for, says which segment registers are not flat, and only
 * accesses through those call the check. The limit of CS is looked at when a block is translated; another limit drops all blocks.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "uc_priv.h"

#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define WHOLE 0xffffffffu

static bool is_readable(const SegmentCache *segment)
{
    return (segment->flags & (DESC_P_MASK | DESC_S_MASK)) == (DESC_P_MASK | DESC_S_MASK) &&
           (!(segment->flags & DESC_CS_MASK) || (segment->flags & DESC_R_MASK));
}

static bool is_writable(const SegmentCache *segment)
{
    return is_readable(segment) && (segment->flags & (DESC_CS_MASK | DESC_W_MASK)) == DESC_W_MASK;
}

static bool is_flat_data(const SegmentCache *segment)
{
    return segment->limit == WHOLE && is_writable(segment) && !(segment->flags & DESC_E_MASK);
}

/* After every change of a segment register or of what a deprivileged guest runs as. */
void pyxen_segments_changed(CPUX86State *env)
{
    struct pyxen_cpu *p = env->uc->pyxen;
    const SegmentCache *segs = env->segs;
    uint32_t h = env->hflags & ~(PYXEN_HF_LIMITED_CODE | PYXEN_HF_CHECKED_DATA | PYXEN_HF_CHECKED_FS_GS);

    if (p && p->deprivileged && !(h & HF_CS64_MASK)) {
        if (segs[R_CS].limit != WHOLE || !is_readable(&segs[R_CS])) {
            h |= PYXEN_HF_LIMITED_CODE;
            if (segs[R_CS].limit != p->code_limit) {
                p->code_limit = segs[R_CS].limit;
                pyxen_request(p, PYXEN_REQUEST_DROP_CODE);
            }
        }
        if (!is_flat_data(&segs[R_DS]) || !is_flat_data(&segs[R_ES]) || !is_flat_data(&segs[R_SS])) {
            h |= PYXEN_HF_CHECKED_DATA;
        }
        if (!is_flat_data(&segs[R_FS]) || !is_flat_data(&segs[R_GS])) {
            h |= PYXEN_HF_CHECKED_FS_GS;
        }
    }
    env->hflags = h;
}

/* Whether blocks translated for these flags check what goes through the segment register. Nothing may be written through CS. */
bool pyxen_segment_is_checked(const CPUX86State *env, uint32_t flags, int segment)
{
    if ((flags & HF_CS64_MASK) || !env->uc->pyxen->deprivileged) {
        return false;
    }
    switch (segment) {
    case R_CS:
        return true;
    case R_FS:
    case R_GS:
        return flags & PYXEN_HF_CHECKED_FS_GS;
    default:
        return flags & PYXEN_HF_CHECKED_DATA;
    }
}

/* `access` is the segment register, the octets << 8, and 1 << 24 for a write. Faults as the manual has it: #SS(0) or #GP(0). */
void helper_pyxen_check_segment(CPUX86State *env, target_ulong address, uint32_t access)
{
    const SegmentCache *segment = &env->segs[access & 0xff];
    uint32_t offset = address - segment->base;
    uint64_t last = (uint64_t)offset + (access >> 8 & 0xffff) - 1;
    bool inside;

    if (!(segment->flags & DESC_CS_MASK) && (segment->flags & DESC_E_MASK)) {
        inside = offset > segment->limit && last <= (segment->flags & DESC_B_MASK ? WHOLE : 0xffff);
    } else {
        inside = last <= segment->limit || segment->limit == WHOLE;
    }
    if (!inside || !(access >> 24 ? is_writable(segment) : is_readable(segment))) {
        raise_exception_err_ra(env, (access & 0xff) == R_SS ? EXCP0C_STACK : EXCP0D_GPF, 0, GETPC());
    }
}

/* EFLAGS.AC and CR0.AM at the user's level; a deprivileged guest's kernel is at that level too, as on Xen. */
bool pyxen_checks_alignment(const CPUX86State *env)
{
    const struct pyxen_cpu *p = env->uc->pyxen;
    uint32_t cpl = env->hflags & HF_CPL_MASK;

    return (env->eflags & AC_MASK) && (env->cr[0] & CR0_AM_MASK) && (cpl == 3 || (cpl && p && p->deprivileged));
}

/* In blocks that check alignment, of what their loads and stores don't: of SSE's 16 octets, #GP(0), and of helpers' operands. */
void helper_pyxen_check_alignment(CPUX86State *env, target_ulong address, uint32_t alignment)
{
    if (address & (alignment - 1)) {
        raise_exception_err_ra(env, alignment == 16 ? EXCP0D_GPF : EXCP11_ALGN, 0, GETPC());
    }
}

/* #AC(0), unless the page faults: that goes first. Where alignment is not checked, only SSE's operands of 16 octets are: #GP(0). */
void pyxen_unaligned_access(CPUState *cs, vaddr address, MMUAccessType access, int mmu_idx, uintptr_t retaddr)
{
    CPUX86State *env = cs->env_ptr;

    if (!pyxen_checks_alignment(env)) {
        raise_exception_err_ra(env, EXCP0D_GPF, 0, retaddr);
    }
    probe_access(env, address, 1, access, mmu_idx, retaddr);
    raise_exception_err_ra(env, EXCP11_ALGN, 0, retaddr);
}
