/*
 * SSE2's integer operations as vector operations of the translator, which are the host's where it has AVX; upstream calls a function each.
 * Included by translate.c. Registers are given as offsets into CPUX86State.
 *
 * Copyright (C) pyxen contributors. GPL-2.0-only.
 */

#include "tcg/tcg-op-gvec.h"

#define OPCODE(prefix, opcode) ((prefix) << 8 | (opcode))

enum { NO_PREFIX, PREFIX_66 };

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

typedef void VectorOperation(TCGContext *, unsigned vece, uint32_t d, uint32_t a, uint32_t b, uint32_t bytes, uint32_t all_bytes);

static void pyxen_gvec_equal(TCGContext *t, unsigned vece, uint32_t d, uint32_t a, uint32_t b, uint32_t bytes, uint32_t all_bytes)
{
    tcg_gen_gvec_cmp(t, TCG_COND_EQ, vece, d, a, b, bytes, all_bytes);
}

static void pyxen_gvec_greater(TCGContext *t, unsigned vece, uint32_t d, uint32_t a, uint32_t b, uint32_t bytes, uint32_t all_bytes)
{
    tcg_gen_gvec_cmp(t, TCG_COND_GT, vece, d, a, b, bytes, all_bytes);
}

/* pandn complements its first operand. */
static void pyxen_gvec_andn(TCGContext *t, unsigned vece, uint32_t d, uint32_t a, uint32_t b, uint32_t bytes, uint32_t all_bytes)
{
    tcg_gen_gvec_andc(t, vece, d, b, a, bytes, all_bytes);
}

/* Opcodes after 66 0f: rows of one operation on elements of growing size, from `vece` on. */
static const struct {
    uint8_t first, last, vece;
    VectorOperation *operation; /* or */
    TCGOpcode host_operation;
} pyxen_vector_rows[] = {
    { 0x14, 0x14, MO_64, NULL, INDEX_op_x86_punpckl_vec },
    { 0x15, 0x15, MO_64, NULL, INDEX_op_x86_punpckh_vec },
    { 0x54, 0x54, MO_64, tcg_gen_gvec_and },
    { 0x55, 0x55, MO_64, pyxen_gvec_andn },
    { 0x56, 0x56, MO_64, tcg_gen_gvec_or },
    { 0x57, 0x57, MO_64, tcg_gen_gvec_xor },
    { 0x60, 0x62, MO_8, NULL, INDEX_op_x86_punpckl_vec },
    { 0x63, 0x63, MO_8, NULL, INDEX_op_x86_packss_vec },
    { 0x64, 0x66, MO_8, pyxen_gvec_greater },
    { 0x67, 0x67, MO_8, NULL, INDEX_op_x86_packus_vec },
    { 0x68, 0x6a, MO_8, NULL, INDEX_op_x86_punpckh_vec },
    { 0x6b, 0x6b, MO_16, NULL, INDEX_op_x86_packss_vec },
    { 0x6c, 0x6c, MO_64, NULL, INDEX_op_x86_punpckl_vec },
    { 0x6d, 0x6d, MO_64, NULL, INDEX_op_x86_punpckh_vec },
    { 0x74, 0x76, MO_8, pyxen_gvec_equal },
    { 0xd4, 0xd4, MO_64, tcg_gen_gvec_add },
    { 0xd5, 0xd5, MO_16, tcg_gen_gvec_mul },
    { 0xd8, 0xd9, MO_8, tcg_gen_gvec_ussub },
    { 0xda, 0xda, MO_8, tcg_gen_gvec_umin },
    { 0xdb, 0xdb, MO_64, tcg_gen_gvec_and },
    { 0xdc, 0xdd, MO_8, tcg_gen_gvec_usadd },
    { 0xde, 0xde, MO_8, tcg_gen_gvec_umax },
    { 0xdf, 0xdf, MO_64, pyxen_gvec_andn },
    { 0xe8, 0xe9, MO_8, tcg_gen_gvec_sssub },
    { 0xea, 0xea, MO_16, tcg_gen_gvec_smin },
    { 0xeb, 0xeb, MO_64, tcg_gen_gvec_or },
    { 0xec, 0xed, MO_8, tcg_gen_gvec_ssadd },
    { 0xee, 0xee, MO_16, tcg_gen_gvec_smax },
    { 0xef, 0xef, MO_64, tcg_gen_gvec_xor },
    { 0xf8, 0xfb, MO_8, tcg_gen_gvec_sub },
    { 0xfc, 0xfe, MO_8, tcg_gen_gvec_add },
};

/* d = op(d, a). False: upstream's function has to be called. */
static bool pyxen_gen_vector(DisasContext *s, int prefix, int opcode, uint32_t d, uint32_t a)
{
    TCGContext *t = s->uc->tcg_ctx;
    int i;

    if (opcode == 0x14 || opcode == 0x15 ? prefix > PREFIX_66 : prefix != PREFIX_66 && (prefix || opcode < 0x54 || opcode > 0x57)) {
        return false; /* of single precision there are UNPCKxPS and bit operations */
    }
    for (i = 0; i < ARRAY_SIZE(pyxen_vector_rows); i++) {
        if (opcode >= pyxen_vector_rows[i].first && opcode <= pyxen_vector_rows[i].last) {
            unsigned vece = pyxen_vector_rows[i].vece + opcode - pyxen_vector_rows[i].first;

            if (!pyxen_vector_rows[i].operation) {
                vece = opcode < 0x60 && !prefix ? MO_32 : vece;
                return pyxen_host_vector_op(t, pyxen_vector_rows[i].host_operation, vece, -1, d, d, a);
            }
            pyxen_vector_rows[i].operation(t, vece, d, d, a, 16, 16);
            return true;
        }
    }
    return false;
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
        tcg_gen_gvec_dup64i(t, d, 16, 16, 0);
        return true;
    }
    switch (operation) {
    case 2:
        tcg_gen_gvec_shri(t, vece, d, d, count, 16, 16);
        return true;
    case 4:
        tcg_gen_gvec_sari(t, vece, d, d, MIN(count, bits - 1), 16, 16);
        return true;
    case 6:
        tcg_gen_gvec_shli(t, vece, d, d, count, 16, 16);
        return true;
    default: /* psrldq, pslldq */
        return false;
    }
}
