"""Edits of what single instructions do."""

from __future__ import annotations

from edit import AFTER, BEFORE, I386, REPLACE, Edit

EDITS: tuple[Edit, ...] = (
    # ------------------------------------------------------------------ string instructions
    Edit(
        I386 + "translate.c",
        "REP MOVS in 64-bit code goes by the page.",
        "            gen_repz_movs(s, ot, pc_start - s->cs_base, s->pc - s->cs_base);\n",
        BEFORE,
        "            if (CODE64(s) && s->aflag == MO_64 && s->override < 0 && !s->tf && !s->uc->pyxen_alignment) {\n"
        "                gen_helper_pyxen_rep_movs(tcg_ctx, tcg_ctx->cpu_env, tcg_const_i32(tcg_ctx, ot));\n"
        "            }\n",
    ),
    Edit(
        I386 + "translate.c",
        "REP STOS, likewise.",
        "            gen_repz_stos(s, ot, pc_start - s->cs_base, s->pc - s->cs_base);\n",
        BEFORE,
        "            if (CODE64(s) && s->aflag == MO_64 && !s->tf && !s->uc->pyxen_alignment) {\n"
        "                gen_helper_pyxen_rep_stos(tcg_ctx, tcg_ctx->cpu_env, tcg_const_i32(tcg_ctx, ot));\n"
        "            }\n",
    ),
    # ------------------------------------------------------------------ SSE status
    Edit(
        I386 + "fpu_helper.c",
        "MXCSR keeps the exceptions that have happened, and unmasked ones change what is translated.",
        "void update_mxcsr_status(CPUX86State *env)\n{\n",
        AFTER,
        "    pyxen_mxcsr_loaded(env);\n",
    ),
    Edit(
        I386 + "fpu_helper.c",
        "Upstream flushes the x87's results to zero instead of SSE's.",
        "    set_flush_to_zero((mxcsr & SSE_FZ) ? 1 : 0, &env->fp_status);\n",
        REPLACE,
        "    set_flush_to_zero((mxcsr & SSE_FZ) ? 1 : 0, &env->sse_status);\n",
    ),
    Edit(
        I386 + "fpu_helper.c",
        "Reserved bits of MXCSR fault.",
        "void helper_ldmxcsr(CPUX86State *env, uint32_t val)\n{\n",
        AFTER,
        "    if (val & ~0xffffu) {\n        raise_exception_ra(env, EXCP0D_GPF, GETPC());\n    }\n",
    ),
    Edit(
        I386 + "fpu_helper.c",
        "In FXRSTOR too, before anything is loaded.",
        "    do_xrstor_fpu(env, ptr, ra);\n\n    if (env->cr[4] & CR4_OSFXSR_MASK) {\n",
        BEFORE,
        "    if ((env->cr[4] & CR4_OSFXSR_MASK) && (cpu_ldl_data_ra(env, ptr + XO(legacy.mxcsr), ra) & ~0xffffu)) {\n"
        "        raise_exception_ra(env, EXCP0D_GPF, ra);\n"
        "    }\n",
    ),
    Edit(
        I386 + "fpu_helper.c",
        "FXSAVE stores the exceptions that have happened.",
        "static void do_xsave_mxcsr(CPUX86State *env, target_ulong ptr, uintptr_t ra)\n{\n",
        AFTER,
        "    helper_pyxen_mxcsr_sync(env);\n",
    ),
    Edit(
        I386 + "translate.c",
        "STMXCSR, likewise.",
        "            tcg_gen_ld32u_tl(tcg_ctx, s->T0, tcg_ctx->cpu_env, offsetof(CPUX86State, mxcsr));\n",
        BEFORE,
        "            gen_helper_pyxen_mxcsr_sync(tcg_ctx, tcg_ctx->cpu_env);\n",
    ),
    Edit(
        I386 + "translate.c",
        "A new MXCSR may change what is translated.",
        "            gen_helper_ldmxcsr(tcg_ctx, tcg_ctx->cpu_env, s->tmp2_i32);\n",
        AFTER,
        "            gen_jmp_im(s, s->pc - s->cs_base);\n            gen_eob(s);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "            gen_helper_fxrstor(tcg_ctx, tcg_ctx->cpu_env, s->A0);\n",
        AFTER,
        "            gen_jmp_im(s, s->pc - s->cs_base);\n            gen_eob(s);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Upstream never raises #XM. What follows wraps the translation of SSE instructions.",
        "static void gen_sse(CPUX86State *env, DisasContext *s, int b,\n",
        REPLACE,
        "static void pyxen_translate_sse(CPUX86State *env, DisasContext *s, int b,\n",
    ),
    Edit(
        I386 + "translate.c",
        "While an exception is unmasked, each SSE instruction looks whether it has raised it.",
        "// Unicorn: sync EFLAGS on demand\n",
        BEFORE,
        "static void gen_sse(CPUX86State *env, DisasContext *s, int b, target_ulong pc_start, int rex_r)\n"
        "{\n"
        "    TCGContext *tcg_ctx = s->uc->tcg_ctx;\n"
        "    bool checked = s->flags & PYXEN_HF_SSE_CHECKED;\n"
        "\n"
        "    s->uc->pyxen_sse_alignment = pyxen_sse_is_aligned(s, b & 0xff) ? MO_ALIGN_16 : 0;\n"
        "    if (checked) {\n"
        "        gen_helper_pyxen_sse_begin(tcg_ctx, tcg_ctx->cpu_env);\n"
        "    }\n"
        "    pyxen_translate_sse(env, s, b, pc_start, rex_r);\n"
        "    if (checked && s->base.is_jmp == DISAS_NEXT) {\n"
        "        gen_helper_pyxen_sse_end(tcg_ctx, tcg_ctx->cpu_env);\n"
        "    }\n"
        "}\n"
        "\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "There are no performance counters, so every RDPMC faults; upstream raises #UD, and #GP where it should not.",
        "void helper_rdpmc(CPUX86State *env)\n{\n",
        AFTER,
        "    raise_exception_ra(env, EXCP0D_GPF, GETPC());\n",
    ),
    # ------------------------------------------------------------------ single instructions
    Edit(
        I386 + "translate.c",
        "A 32-bit CMPXCHG that succeeds leaves all of RAX alone, and one that fails all of a destination register; upstream clears "
        "their upper halves. This makes the accumulator's and the register's new values.",
        "/* Compute SEG:REG into A0.  SEG is selected from the override segment\n",
        BEFORE,
        "static void pyxen_gen_cmpxchg_reg(DisasContext *s, MemOp ot, int reg, TCGv value, TCGCond keep, TCGv oldv, TCGv cmpv)\n"
        "{\n"
        "    TCGContext *tcg_ctx = s->uc->tcg_ctx;\n"
        "    TCGv old32, cmp32, value32;\n"
        "\n"
        "    if (ot != MO_32) {\n"
        "        gen_op_mov_reg_v(s, ot, reg, value);\n"
        "        return;\n"
        "    }\n"
        "    old32 = tcg_temp_new(tcg_ctx);\n"
        "    cmp32 = tcg_temp_new(tcg_ctx);\n"
        "    value32 = tcg_temp_new(tcg_ctx);\n"
        "    tcg_gen_ext32u_tl(tcg_ctx, old32, oldv);\n"
        "    tcg_gen_ext32u_tl(tcg_ctx, cmp32, cmpv);\n"
        "    tcg_gen_ext32u_tl(tcg_ctx, value32, value);\n"
        "    tcg_gen_movcond_tl(tcg_ctx, keep, tcg_ctx->cpu_regs[reg], old32, cmp32, tcg_ctx->cpu_regs[reg], value32);\n"
        "    tcg_temp_free(tcg_ctx, old32);\n"
        "    tcg_temp_free(tcg_ctx, cmp32);\n"
        "    tcg_temp_free(tcg_ctx, value32);\n"
        "}\n"
        "\n",
    ),
    Edit(
        I386 + "translate.c",
        "With LOCK.",
        "                                          s->mem_index, ot | MO_LE);\n                gen_op_mov_reg_v(s, ot, R_EAX, oldv);\n",
        REPLACE,
        "                                          s->mem_index, ot | MO_LE);\n"
        "                pyxen_gen_cmpxchg_reg(s, ot, R_EAX, oldv, TCG_COND_EQ, oldv, cmpv);\n",
    ),
    Edit(
        I386 + "translate.c",
        "With a register.",
        "                    gen_op_mov_reg_v(s, ot, R_EAX, oldv);\n                    gen_op_mov_reg_v(s, ot, rm, newv);\n",
        REPLACE,
        "                    pyxen_gen_cmpxchg_reg(s, ot, R_EAX, oldv, TCG_COND_EQ, oldv, cmpv);\n"
        "                    pyxen_gen_cmpxchg_reg(s, ot, rm, newv, TCG_COND_NE, oldv, cmpv);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Without LOCK.",
        "                    gen_op_st_v(s, ot, newv, s->A0);\n                    gen_op_mov_reg_v(s, ot, R_EAX, oldv);\n",
        REPLACE,
        "                    gen_op_st_v(s, ot, newv, s->A0);\n"
        "                    pyxen_gen_cmpxchg_reg(s, ot, R_EAX, oldv, TCG_COND_EQ, oldv, cmpv);\n",
    ),
    Edit(
        I386 + "fpu_helper.c",
        "FXSAVE stores the last opcode, too: it is not kept, so 0, as the data pointer. Upstream leaves what was in memory.",
        "    cpu_stw_data_ra(env, ptr + XO(legacy.ftw), fptag ^ 0xff, ra);\n",
        AFTER,
        "    cpu_stw_data_ra(env, ptr + XO(legacy.ftw) + 2, 0, ra);\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "RDTSC reads the guest's counter, or exits.",
        "void helper_rdtsc(CPUX86State *env)\n{\n",
        AFTER,
        "    pyxen_rdtsc(env, false, GETPC());\n    return;\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "Likewise.",
        "void helper_rdtscp(CPUX86State *env)\n{\n",
        AFTER,
        "    pyxen_rdtsc(env, true, GETPC());\n    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "The length of RDTSC with its prefixes.",
        "        gen_helper_rdtsc(tcg_ctx, tcg_ctx->cpu_env);\n",
        BEFORE,
        "        tcg_gen_st_i32(tcg_ctx, tcg_const_i32(tcg_ctx, s->pc - pc_start), tcg_ctx->cpu_env,\n"
        "                       offsetof(CPUX86State, pyxen_length));\n",
    ),
    Edit(
        I386 + "translate.c",
        "Of RDTSCP.",
        "            gen_helper_rdtscp(tcg_ctx, tcg_ctx->cpu_env);\n",
        BEFORE,
        "            tcg_gen_st_i32(tcg_ctx, tcg_const_i32(tcg_ctx, s->pc - pc_start), tcg_ctx->cpu_env,\n"
        "                           offsetof(CPUX86State, pyxen_length));\n",
    ),
    Edit(
        I386 + "cc_helper.c",
        "PUSHF stores neither VM nor RF.",
        "target_ulong helper_read_eflags(CPUX86State *env)\n{\n",
        AFTER,
        "    return cpu_compute_eflags(env) & ~(target_ulong)(VM_MASK | RF_MASK);\n",
    ),
    # ------------------------------------------------------------------ control registers
    Edit(
        I386 + "misc_helper.c",
        "Control registers refuse what the manual says they do; upstream takes anything. CR8 is in the block.",
        "void helper_write_crN(CPUX86State *env, int reg, target_ulong t0)\n{\n",
        AFTER,
        "    pyxen_check_control(env, reg, t0);\n    if (reg == 8) {\n        pyxen_write_cr8(env, t0);\n        return;\n    }\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "CR8, likewise.",
        "target_ulong helper_read_crN(CPUX86State *env, int reg)\n{\n",
        AFTER,
        "    if (reg == 8) {\n        return pyxen_read_cr8(env);\n    }\n",
    ),
    # ------------------------------------------------------------------ no guest ends the process
    Edit(
        "src/qemu/include/tcg/tcg.h",
        "Some instructions take temporaries that upstream's translation does not give back, and nothing counts them: a block of some "
        "hundred such instructions wrote beyond their array. A block ends when half of them are taken.",
        "static inline bool tcg_op_buf_full(TCGContext *tcg_ctx)\n{\n",
        AFTER,
        "    if (unlikely(tcg_ctx->nb_temps > TCG_MAX_TEMPS / 2)) {\n        return true;\n    }\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "A task-state segment that is not there is the guest's fault; upstream aborts the process.",
        '        cpu_abort(CPU(cpu), "invalid tss");\n    }\n    index = 8 * level + 4;\n',
        BEFORE,
        "        raise_exception_err(env, EXCP0A_TSS, env->tr.selector & 0xfffc);\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "Likewise.",
        '        cpu_abort(CPU(cpu), "invalid tss");\n    }\n    type = (env->tr.flags',
        BEFORE,
        "        raise_exception_err_ra(env, EXCP0A_TSS, env->tr.selector & 0xfffc, retaddr);\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "Likewise.",
        '        cpu_abort(CPU(cpu), "invalid tss type");\n',
        BEFORE,
        "        raise_exception_err_ra(env, EXCP0A_TSS, env->tr.selector & 0xfffc, retaddr);\n",
    ),
    # ------------------------------------------------------------------ far transfers have the rights of who makes them
    Edit(
        I386 + "seg_helper.c",
        "Far calls and returns and IRET push and pop with the privilege of who executes them; upstream does it with the kernel's, so that "
        "a user's far return reads what is the kernel's, and its page faults look like the kernel's own.",
        "/* real mode call */\n",
        BEFORE,
        "#define PYXEN_PUSH_INDEX cpu_mmu_index(env, false)\n"
        "#undef cpu_lduw_kernel_ra\n#undef cpu_ldl_kernel_ra\n#undef cpu_ldq_kernel_ra\n"
        "#undef cpu_stw_kernel_ra\n#undef cpu_stl_kernel_ra\n#undef cpu_stq_kernel_ra\n"
        "#define cpu_lduw_kernel_ra(e, p, r) cpu_lduw_mmuidx_ra(e, p, cpu_mmu_index(env, false), r)\n"
        "#define cpu_ldl_kernel_ra(e, p, r) cpu_ldl_mmuidx_ra(e, p, cpu_mmu_index(env, false), r)\n"
        "#define cpu_ldq_kernel_ra(e, p, r) cpu_ldq_mmuidx_ra(e, p, cpu_mmu_index(env, false), r)\n"
        "#define cpu_stw_kernel_ra(e, p, v, r) cpu_stw_mmuidx_ra(e, p, v, PYXEN_PUSH_INDEX, r)\n"
        "#define cpu_stl_kernel_ra(e, p, v, r) cpu_stl_mmuidx_ra(e, p, v, PYXEN_PUSH_INDEX, r)\n"
        "#define cpu_stq_kernel_ra(e, p, v, r) cpu_stq_mmuidx_ra(e, p, v, PYXEN_PUSH_INDEX, r)\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "A call gate's stack of an inner ring is the kernel's.",
        "            /* push_size = ((param_count * 2) + 8) << shift; */\n",
        BEFORE,
        "#undef PYXEN_PUSH_INDEX\n#define PYXEN_PUSH_INDEX cpu_mmu_index_kernel(env)\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "Through a gate to the same ring it is not.",
        "            /* push_size = (4 << shift); */\n            new_stack = 0;\n        }\n",
        AFTER,
        "#undef PYXEN_PUSH_INDEX\n#define PYXEN_PUSH_INDEX (new_stack ? cpu_mmu_index_kernel(env) : cpu_mmu_index(env, false))\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "IRET that switches tasks, and the I/O bitmap: task-state segments are read with the kernel's rights, whoever is running.",
        "void helper_iret_protected(CPUX86State *env, int shift, int next_eip)\n",
        BEFORE,
        "#undef cpu_lduw_kernel_ra\n#define cpu_lduw_kernel_ra(e, p, r) cpu_lduw_mmuidx_ra(e, p, cpu_mmu_index_kernel(e), r)\n\n",
    ),
)
