/*
 * SSE2's integer operations as vector operations of the translator, which are the host's where it has AVX; upstream calls a function each.
 * Included by translate.c. Registers are given as offsets into CPUX86State.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */

#include "tcg/tcg-op-gvec.h"

#define XMM_BYTES 16, 16 /* operated on, and cleared to the end of */
#define OPCODE(prefix, opcode) ((prefix) << 8 | (opcode))
#define ALL_PREFIXES_WITHOUT_MMX(opcode) OPCODE(0, opcode): case OPCODE(1, opcode)

enum { NO_PREFIX, PREFIX_66, PREFIX_F3, PREFIX_F2 };

/* Whether its operand of 16 octets, if it has one, has to be aligned: not those of MOVUPS, MOVUPD, MOVDQU, LDDQU. */
static bool pyxen_sse_is_aligned(const DisasContext *s, int opcode)
{
    switch (opcode) {
    case 0x10:
    case 0x11:
    case 0xf0:
        return false;
    case 0x6f:
    case 0x7f:
        return (s->prefix & PREFIX_DATA) || !(s->prefix & PREFIX_REPZ);
    default:
        return true;
    }
}

/* What only a host with AVX has: d = op(d, s), with an immediate operand or -1. False: it has not. */
static bool pyxen_host_vector_op(TCGContext *t, TCGOpcode op, unsigned vece, int immediate, uint32_t d, uint32_t a, uint32_t b)
{
    TCGv_vec first, second;

    if (!TCG_TARGET_HAS_v128) {
        return false;
    }
    first = tcg_temp_new_vec(t, TCG_TYPE_V128);
    second = tcg_temp_new_vec(t, TCG_TYPE_V128);
    tcg_gen_ld_vec(t, first, t->cpu_env, a);
    tcg_gen_ld_vec(t, second, t->cpu_env, b);
    if (immediate < 0) {
        vec_gen_3(t, op, TCG_TYPE_V128, vece, tcgv_vec_arg(t, first), tcgv_vec_arg(t, first), tcgv_vec_arg(t, second));
    } else {
        vec_gen_4(t, op, TCG_TYPE_V128, vece, tcgv_vec_arg(t, first), tcgv_vec_arg(t, first), tcgv_vec_arg(t, second), immediate);
    }
    tcg_gen_st_vec(t, first, t->cpu_env, d);
    tcg_temp_free_vec(t, second);
    tcg_temp_free_vec(t, first);
    return true;
}

/* d = op(d, a). False: upstream's function has to be called. */
static bool pyxen_gen_vector(DisasContext *s, int opcode, uint32_t d, uint32_t a)
{
    TCGContext *t = s->uc->tcg_ctx;
    unsigned vece = opcode & 3; /* in those rows of the table that are in order of size */

    switch (opcode) {
    case ALL_PREFIXES_WITHOUT_MMX(0x14): /* unpcklps, unpcklpd */
        return pyxen_host_vector_op(t, INDEX_op_x86_punpckl_vec, opcode >> 8 ? MO_64 : MO_32, -1, d, d, a);
    case ALL_PREFIXES_WITHOUT_MMX(0x15):
        return pyxen_host_vector_op(t, INDEX_op_x86_punpckh_vec, opcode >> 8 ? MO_64 : MO_32, -1, d, d, a);
    case ALL_PREFIXES_WITHOUT_MMX(0x54): /* andps, andpd */
    case OPCODE(PREFIX_66, 0xdb):
        tcg_gen_gvec_and(t, MO_64, d, d, a, XMM_BYTES);
        return true;
    case ALL_PREFIXES_WITHOUT_MMX(0x55):
    case OPCODE(PREFIX_66, 0xdf):
        tcg_gen_gvec_andc(t, MO_64, d, a, d, XMM_BYTES);
        return true;
    case ALL_PREFIXES_WITHOUT_MMX(0x56):
    case OPCODE(PREFIX_66, 0xeb):
        tcg_gen_gvec_or(t, MO_64, d, d, a, XMM_BYTES);
        return true;
    case ALL_PREFIXES_WITHOUT_MMX(0x57):
    case OPCODE(PREFIX_66, 0xef):
        tcg_gen_gvec_xor(t, MO_64, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0x60) ... OPCODE(PREFIX_66, 0x62): /* punpckl bw, wd, dq */
        return pyxen_host_vector_op(t, INDEX_op_x86_punpckl_vec, vece, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x63): /* packsswb */
        return pyxen_host_vector_op(t, INDEX_op_x86_packss_vec, MO_8, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x64) ... OPCODE(PREFIX_66, 0x66): /* pcmpgt b, w, d */
        tcg_gen_gvec_cmp(t, TCG_COND_GT, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0x67): /* packuswb */
        return pyxen_host_vector_op(t, INDEX_op_x86_packus_vec, MO_8, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x68) ... OPCODE(PREFIX_66, 0x6a): /* punpckh bw, wd, dq */
        return pyxen_host_vector_op(t, INDEX_op_x86_punpckh_vec, vece, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x6b): /* packssdw */
        return pyxen_host_vector_op(t, INDEX_op_x86_packss_vec, MO_16, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x6c):
        return pyxen_host_vector_op(t, INDEX_op_x86_punpckl_vec, MO_64, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x6d):
        return pyxen_host_vector_op(t, INDEX_op_x86_punpckh_vec, MO_64, -1, d, d, a);
    case OPCODE(PREFIX_66, 0x74) ... OPCODE(PREFIX_66, 0x76): /* pcmpeq b, w, d */
        tcg_gen_gvec_cmp(t, TCG_COND_EQ, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xd4): /* paddq */
        tcg_gen_gvec_add(t, MO_64, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xd5): /* pmullw */
        tcg_gen_gvec_mul(t, MO_16, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xd8) ... OPCODE(PREFIX_66, 0xd9): /* psubus b, w */
        tcg_gen_gvec_ussub(t, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xda):
        tcg_gen_gvec_umin(t, MO_8, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xdc) ... OPCODE(PREFIX_66, 0xdd): /* paddus b, w */
        tcg_gen_gvec_usadd(t, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xde):
        tcg_gen_gvec_umax(t, MO_8, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xe8) ... OPCODE(PREFIX_66, 0xe9): /* psubs b, w */
        tcg_gen_gvec_sssub(t, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xea):
        tcg_gen_gvec_smin(t, MO_16, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xec) ... OPCODE(PREFIX_66, 0xed): /* padds b, w */
        tcg_gen_gvec_ssadd(t, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xee):
        tcg_gen_gvec_smax(t, MO_16, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xf8) ... OPCODE(PREFIX_66, 0xfb): /* psub b, w, d, q */
        tcg_gen_gvec_sub(t, vece, d, d, a, XMM_BYTES);
        return true;
    case OPCODE(PREFIX_66, 0xfc) ... OPCODE(PREFIX_66, 0xfe): /* padd b, w, d */
        tcg_gen_gvec_add(t, vece, d, d, a, XMM_BYTES);
        return true;
    default:
        return false;
    }
}

/* pshufd, shufps, shufpd. */
static bool pyxen_gen_shuffle(DisasContext *s, int opcode, int order, uint32_t d, uint32_t a)
{
    TCGContext *t = s->uc->tcg_ctx;

    switch (opcode) {
    case OPCODE(PREFIX_66, 0x70):
        return pyxen_host_vector_op(t, INDEX_op_x86_shufps_vec, MO_32, order, d, a, a);
    case OPCODE(NO_PREFIX, 0xc6):
        return pyxen_host_vector_op(t, INDEX_op_x86_shufps_vec, MO_32, order, d, d, a);
    case OPCODE(PREFIX_66, 0xc6):
        order = (order & 1 ? 0x0e : 0x04) | (order & 2 ? 0xe0 : 0x40);
        return pyxen_host_vector_op(t, INDEX_op_x86_shufps_vec, MO_32, order, d, d, a);
    default:
        return false;
    }
}

/* Shifts by an immediate: `operation` is the ModR/M byte's. */
static bool pyxen_gen_shift(DisasContext *s, int opcode, int operation, int count, uint32_t d)
{
    TCGContext *t = s->uc->tcg_ctx;
    unsigned vece = (opcode & 0xff) - 0x70;
    int bits = 8 << vece;

    if (opcode >> 8 != PREFIX_66) {
        return false;
    }
    if (operation != 4 && count >= (operation & 1 ? 16 : bits)) {
        tcg_gen_gvec_dup64i(t, d, XMM_BYTES, 0);
        return true;
    }
    switch (operation) {
    case 2:
        tcg_gen_gvec_shri(t, vece, d, d, count, XMM_BYTES);
        return true;
    case 4:
        tcg_gen_gvec_sari(t, vece, d, d, MIN(count, bits - 1), XMM_BYTES);
        return true;
    case 6:
        tcg_gen_gvec_shli(t, vece, d, d, count, XMM_BYTES);
        return true;
    default: /* psrldq, pslldq */
        return false;
    }
}
