"""Edits of SSE2's integer operations, loads and stores."""

from __future__ import annotations

from edit import AFTER, BEFORE, I386, REPLACE, Edit

EDITS: tuple[Edit, ...] = (
    # ------------------------------------------------------------------ vector operations
    Edit(
        I386 + "cpu.h",
        "Vector operations want their registers at multiples of 16.",
        "    ZMMReg xmm_regs[CPU_NB_REGS == 8 ? 8 : 32];\n    ZMMReg xmm_t0;\n",
        REPLACE,
        "    ZMMReg xmm_regs[CPU_NB_REGS == 8 ? 8 : 32] QEMU_ALIGNED(16);\n    ZMMReg xmm_t0 QEMU_ALIGNED(16);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Moves between registers.",
        "static inline void gen_op_movo(DisasContext *s, int d_offset, int s_offset)\n{\n",
        REPLACE,
        "static inline void gen_op_movo(DisasContext *s, int d_offset, int s_offset)\n{\n"
        "    tcg_gen_gvec_mov(s->uc->tcg_ctx, MO_64, d_offset, s_offset, 16, 16);\n"
        "    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "The functions that these edits call.",
        "static inline void gen_ldq_env_A0(DisasContext *s, int offset)\n",
        BEFORE,
        '#include "pyxen_sse.h"\n\n',
    ),
    Edit(
        I386 + "translate.c",
        "Operations on two registers, or a register and memory.",
        "        switch(b) {\n        case 0x0f: /* 3DNow! data insns */\n",
        BEFORE,
        "        if (is_xmm && pyxen_gen_vector(s, b1, b, op1_offset, op2_offset)) {\n            return;\n        }\n",
    ),
    Edit(
        I386 + "translate.c",
        "Shuffles.",
        "            sse_fn_ppi = (SSEFunc_0_ppi)sse_fn_epp;\n",
        BEFORE,
        "            if (is_xmm && pyxen_gen_shuffle(s, b1 << 8 | b, val, op1_offset, op2_offset)) {\n"
        "                break;\n            }\n",
    ),
    Edit(
        I386 + "translate.c",
        "Shifts by an immediate.",
        "            val = x86_ldub_code(env, s);\n            if (is_xmm) {\n                tcg_gen_movi_tl(tcg_ctx, s->T0, val);\n",
        REPLACE,
        "            val = x86_ldub_code(env, s);\n"
        "            rm = (modrm & 7) | REX_B(s);\n"
        "            if (is_xmm && sse_op_table2[((b - 1) & 3) * 8 + (modrm >> 3 & 7)][b1] &&\n"
        "                pyxen_gen_shift(s, b, modrm >> 3 & 7, val, offsetof(CPUX86State, xmm_regs[rm]))) {\n"
        "                break;\n"
        "            }\n"
        "            if (is_xmm) {\n"
        "                tcg_gen_movi_tl(tcg_ctx, s->T0, val);\n",
    ),
    # ------------------------------------------------------------------ loads and stores
    Edit(
        I386 + "translate.c",
        "An operand of 16 octets is aligned, or the instruction faults; upstream loads any. A load that faults half-way changes nothing.",
        "static inline void gen_ldo_env_A0(DisasContext *s, int offset)\n{\n",
        REPLACE,
        "static bool pyxen_gen_aligned(DisasContext *s)\n"
        "{\n"
        "    if (s->uc->pyxen_sse_alignment && s->uc->pyxen_alignment) {\n"
        "        gen_helper_pyxen_check_alignment(s->uc->tcg_ctx, s->uc->tcg_ctx->cpu_env, s->A0,\n"
        "                                         tcg_const_i32(s->uc->tcg_ctx, 16)); /* else it would be #AC */\n"
        "    }\n"
        "    return s->uc->pyxen_sse_alignment;\n"
        "}\n"
        "\n"
        "static inline void gen_ldo_env_A0(DisasContext *s, int offset)\n"
        "{\n"
        "    TCGContext *pyxen_tcg = s->uc->tcg_ctx;\n"
        "    TCGv_i64 upper = tcg_temp_new_i64(pyxen_tcg);\n"
        "    bool aligned = pyxen_gen_aligned(s);\n"
        "\n"
        "    tcg_gen_qemu_ld_i64(pyxen_tcg, s->tmp1_i64, s->A0, s->mem_index, MO_LEQ | (aligned ? MO_ALIGN_16 : 0));\n"
        "    tcg_gen_addi_tl(pyxen_tcg, s->tmp0, s->A0, 8);\n"
        "    tcg_gen_qemu_ld_i64(pyxen_tcg, upper, s->tmp0, s->mem_index, MO_LEQ);\n"
        "    tcg_gen_st_i64(pyxen_tcg, s->tmp1_i64, pyxen_tcg->cpu_env, offset + offsetof(ZMMReg, ZMM_Q(0)));\n"
        "    tcg_gen_st_i64(pyxen_tcg, upper, pyxen_tcg->cpu_env, offset + offsetof(ZMMReg, ZMM_Q(1)));\n"
        "    tcg_temp_free_i64(pyxen_tcg, upper);\n"
        "    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise. A store that crosses into a page that is not there writes nothing: the upper half, which reaches there, goes first.",
        "static inline void gen_sto_env_A0(DisasContext *s, int offset)\n{\n",
        AFTER,
        "    TCGContext *pyxen_tcg = s->uc->tcg_ctx;\n"
        "    bool aligned = pyxen_gen_aligned(s);\n"
        "    int half;\n"
        "\n"
        "    for (half = 0; half < 2; half++) {\n"
        "        int n = half ^ !aligned;\n"
        "\n"
        "        tcg_gen_addi_tl(pyxen_tcg, s->tmp0, s->A0, n * 8);\n"
        "        tcg_gen_ld_i64(pyxen_tcg, s->tmp1_i64, pyxen_tcg->cpu_env, offset + offsetof(ZMMReg, ZMM_Q(n)));\n"
        "        tcg_gen_qemu_st_i64(pyxen_tcg, s->tmp1_i64, s->tmp0, s->mem_index, MO_LEQ | (aligned && n == 0 ? MO_ALIGN_16 : 0));\n"
        "    }\n"
        "    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "PCMPxSTRx take operands of any alignment.",
        "            sse_fn_eppi = sse_op_table7[b].op[b1];\n",
        AFTER,
        "            if ((b & 0xfc) == 0x60) {\n                s->uc->pyxen_sse_alignment = 0;\n            }\n",
    ),
    Edit(
        I386 + "translate.c",
        "CVTPS2PI and CVTTPS2PI load 8 octets; upstream loads 16.",
        "                op2_offset = offsetof(CPUX86State,xmm_t0);\n                gen_ldo_env_A0(s, op2_offset);\n            } else {\n"
        "                rm = (modrm & 7) | REX_B(s);\n                op2_offset = offsetof(CPUX86State,xmm_regs[rm]);\n",
        REPLACE,
        "                op2_offset = offsetof(CPUX86State,xmm_t0);\n"
        "                if (b1) {\n"
        "                    gen_ldo_env_A0(s, op2_offset);\n"
        "                } else {\n"
        "                    gen_ldq_env_A0(s, op2_offset);\n"
        "                }\n"
        "            } else {\n"
        "                rm = (modrm & 7) | REX_B(s);\n"
        "                op2_offset = offsetof(CPUX86State,xmm_regs[rm]);\n",
    ),
    Edit(
        I386 + "translate.c",
        "So do CVTPS2PD and CVTDQ2PD.",
        "                switch (sz) {\n                case 2:\n                    /* 32 bit access */\n",
        BEFORE,
        "                if ((b == 0x5a && b1 == 0) || (b == 0xe6 && b1 == 2)) {\n                    sz = 3;\n                }\n",
    ),
)
