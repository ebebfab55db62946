/*
 * The x87 and SSE state as the 512-byte image of FXSAVE (Intel SDM volume 1, table 10-2: 64-bit layout).
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "uc_priv.h"

#include "pyxen_cpu.h"
#include "pyxen_internal.h"

#define MXCSR_MASK 0x0000ffffu
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
