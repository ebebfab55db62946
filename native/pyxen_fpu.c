/*
 * The x87 and SSE state as the 512-byte image of FXSAVE (Intel SDM volume 1, table 10-2: 64-bit layout), and SSE's exceptions.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "exec/helper-proto.h"
#include "fpu/softfloat.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define MXCSR_MASK 0x0000ffffu
#define EXCP_SIMD 19
#define MXCSR_FLAGS 0x3fu
#define MXCSR_MASKS_SHIFT 7
#define FSW_TOP_SHIFT 11
#define FSW_TOP 0x3800u

struct fxsave_image {
    uint16_t fcw, fsw;
    uint8_t ftw, reserved1;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t xmm[16][16];
    uint8_t reserved2[96];
};

QEMU_BUILD_BUG_ON(sizeof(struct fxsave_image) != 512);

/* The exceptions that SSE instructions have raised since the last call, as MXCSR has them; forgets them. */
static uint32_t new_exceptions(CPUX86State *env)
{
    int raised = get_float_exception_flags(&env->sse_status);
    uint32_t flags = 0;

    flags |= raised & float_flag_invalid ? 1 : 0;
    flags |= raised & float_flag_divbyzero ? 4 : 0;
    flags |= raised & float_flag_overflow ? 8 : 0;
    flags |= raised & float_flag_underflow ? 16 : 0;
    flags |= raised & float_flag_inexact ? 32 : 0;
    set_float_exception_flags(0, &env->sse_status);
    return flags;
}

/* Brings MXCSR up to date. */
void helper_pyxen_mxcsr_sync(CPUX86State *env)
{
    env->mxcsr |= new_exceptions(env);
}

/* Before an instruction, while an exception is unmasked: remembers what it may change. */
void helper_pyxen_sse_begin(CPUX86State *env)
{
    struct pyxen_sse_before *before = &env->uc->pyxen->sse_before;
    int i;

    helper_pyxen_mxcsr_sync(env);
    for (i = 0; i < 16; i++) {
        memcpy(before->xmm[i], &env->xmm_regs[i], 16);
    }
    memcpy(before->gpr, env->regs, sizeof(before->gpr));
    before->cc_src = env->cc_src;
    before->cc_dst = env->cc_dst;
    before->cc_src2 = env->cc_src2;
}

/* After it: one that raises an unmasked exception has changed nothing. */
void helper_pyxen_sse_end(CPUX86State *env)
{
    const struct pyxen_sse_before *before = &env->uc->pyxen->sse_before;
    uint32_t raised = new_exceptions(env);
    uint32_t masked = env->mxcsr >> MXCSR_MASKS_SHIFT;
    int i;

    env->mxcsr |= raised;
    if (raised & ~masked) {
        for (i = 0; i < 16; i++) {
            memcpy(&env->xmm_regs[i], before->xmm[i], 16);
        }
        memcpy(env->regs, before->gpr, sizeof(before->gpr));
        env->cc_src = before->cc_src;
        env->cc_dst = before->cc_dst;
        env->cc_src2 = before->cc_src2;
        raise_exception_ra(env, env->cr[4] & CR4_OSXMMEXCPT_MASK ? EXCP_SIMD : EXCP06_ILLOP, GETPC());
    }
}

void pyxen_mxcsr_loaded(CPUX86State *env)
{
    set_float_exception_flags(0, &env->sse_status);
    if ((~env->mxcsr >> MXCSR_MASKS_SHIFT) & MXCSR_FLAGS) {
        env->hflags |= PYXEN_HF_SSE_CHECKED;
    } else {
        env->hflags &= ~PYXEN_HF_SSE_CHECKED;
    }
}

PYXEN_EXPORT void pyxen_cpu_read_fpu(struct pyxen_cpu *p, uint8_t *bytes)
{
    CPUX86State *env = p->uc->cpu->env_ptr;
    struct fxsave_image *image = (struct fxsave_image *)bytes;
    int i;

    memset(image, 0, sizeof(*image));
    image->fcw = env->fpuc;
    image->fsw = (env->fpus & ~FSW_TOP) | (env->fpstt & 7) << FSW_TOP_SHIFT;
    for (i = 0; i < 8; i++) {
        CPU_LDoubleU value;

        image->ftw |= env->fptags[i] ? 0 : 1 << i; /* the abridged tag: 1 is "in use" */
        value.d = env->fpregs[(env->fpstt + i) & 7].d;
        memcpy(image->st[i], &value.l.lower, 8);
        memcpy(image->st[i] + 8, &value.l.upper, 2);
    }
    helper_pyxen_mxcsr_sync(env);
    image->mxcsr = env->mxcsr;
    image->mxcsr_mask = MXCSR_MASK;
    for (i = 0; i < 16; i++) {
        memcpy(image->xmm[i], &env->xmm_regs[i], 16);
    }
}

PYXEN_EXPORT int pyxen_cpu_write_fpu(struct pyxen_cpu *p, const uint8_t *bytes)
{
    CPUX86State *env = p->uc->cpu->env_ptr;
    const struct fxsave_image *image = (const struct fxsave_image *)bytes;
    int i;

    if (image->mxcsr & ~MXCSR_MASK) {
        return -1;
    }
    cpu_set_fpuc(env, image->fcw);
    env->fpstt = (image->fsw >> FSW_TOP_SHIFT) & 7;
    env->fpus = image->fsw & ~FSW_TOP;
    for (i = 0; i < 8; i++) {
        CPU_LDoubleU value;

        env->fptags[i] = !((image->ftw >> i) & 1);
        memcpy(&value.l.lower, image->st[i], 8);
        memcpy(&value.l.upper, image->st[i] + 8, 2);
        env->fpregs[(env->fpstt + i) & 7].d = value.d;
    }
    cpu_set_mxcsr(env, image->mxcsr);
    for (i = 0; i < 16; i++) {
        memcpy(&env->xmm_regs[i], image->xmm[i], 16);
    }
    return 0;
}

void pyxen_cpu_reset_fpu(struct pyxen_cpu *p)
{
    struct fxsave_image image = { .fcw = 0x37f, .mxcsr = 0x1f80 };

    pyxen_cpu_write_fpu(p, (const uint8_t *)&image);
}
