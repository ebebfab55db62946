/*
 * A privileged guest's loads of control registers: what the manual has fault (Intel SDM volume 3, section 2.5 and MOV to CRn), and CR8.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */
#include "qemu/osdep.h"
#include "cpu.h"
#include "exec/exec-all.h"
#include "uc_priv.h"

#include "pyxen_hooks.h"
#include "pyxen_internal.h"

#define CR0_CD (1u << 30)
#define CR0_NW (1u << 29)
#define CR4_ALWAYS                                                                                                            \
    (CR4_VME_MASK | CR4_PVI_MASK | CR4_TSD_MASK | CR4_DE_MASK | CR4_PSE_MASK | CR4_PAE_MASK | CR4_MCE_MASK | CR4_PGE_MASK |    \
     CR4_PCE_MASK | CR4_OSFXSR_MASK | CR4_OSXMMEXCPT_MASK)
#define HIGHEST_ADDRESS_BITS 52

static bool cr0_is_good(const CPUX86State *env, uint64_t value)
{
    bool paging = value & CR0_PG_MASK, was_paging = env->cr[0] & CR0_PG_MASK;

    if (value >> 32 || (paging && !(value & CR0_PE_MASK)) || ((value & CR0_NW) && !(value & CR0_CD))) {
        return false;
    }
    if (paging && !was_paging && (env->efer & MSR_EFER_LME)) {
        return (env->cr[4] & CR4_PAE_MASK) && !(env->segs[R_CS].flags & DESC_L_MASK);
    }
    return paging || !was_paging || !(env->hflags & HF_CS64_MASK);
}

static bool cr4_is_good(const CPUX86State *env, uint64_t value)
{
    uint64_t known = CR4_ALWAYS;

    known |= env->features[FEAT_7_0_EBX] & CPUID_7_0_EBX_FSGSBASE ? CR4_FSGSBASE_MASK : 0;
    known |= env->features[FEAT_7_0_EBX] & CPUID_7_0_EBX_SMEP ? CR4_SMEP_MASK : 0;
    known |= env->features[FEAT_7_0_EBX] & CPUID_7_0_EBX_SMAP ? CR4_SMAP_MASK : 0;
    return !(value & ~known) && ((value & CR4_PAE_MASK) || !(env->hflags & HF_LMA_MASK));
}

/* #GP(0) for what may not be loaded. The translator has stored RIP and the flags. */
void pyxen_check_control(CPUX86State *env, int reg, uint64_t value)
{
    bool good = true;

    switch (reg) {
    case 0:
        good = cr0_is_good(env, value);
        break;
    case 3:
        good = !(env->hflags & HF_LMA_MASK) || !(value >> HIGHEST_ADDRESS_BITS);
        break;
    case 4:
        good = cr4_is_good(env, value);
        break;
    case 8:
        good = !(value >> 4);
        break;
    }
    if (!good) {
        raise_exception_err(env, EXCP0D_GPF, 0);
    }
}

uint64_t pyxen_read_cr8(CPUX86State *env)
{
    return env->uc->pyxen->state->cr8;
}

/* Interrupts that were held back may come when it falls: that is for the hypervisor to say, so the guest leaves. */
void pyxen_write_cr8(CPUX86State *env, uint64_t value)
{
    struct pyxen_cpu *p = env->uc->pyxen;

    if (value < p->state->cr8) {
        pyxen_request(p, PYXEN_REQUEST_KICK);
    }
    p->state->cr8 = value;
}
