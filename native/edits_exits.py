"""Edits by which the engine leaves the guest: requests, exceptions, and instructions that are the hypervisor's."""

from __future__ import annotations

from edit import ACCEL, AFTER, BEFORE, I386, REPLACE, Edit

EDITS: tuple[Edit, ...] = (
    # ------------------------------------------------------------------ atomics and preemption
    Edit(
        "src/qemu/include/exec/exec-all.h",
        "vCPUs in several threads share memory, and the hypervisor writes to it too: guest atomics must be host atomics.",
        "static inline uint32_t curr_cflags(void)\n{\n",
        AFTER,
        "    return CF_PARALLEL;\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "The host's locked operations work on any address, also where two pages meet. CMPXCHG16B alone faults, which its slow way does.",
        "    if (unlikely(addr & ((1 << s_bits) - 1))) {\n",
        REPLACE,
        "    if (unlikely((addr & ~TARGET_PAGE_MASK) + (1 << s_bits) > TARGET_PAGE_SIZE && s_bits < 4)) {\n"
        "        return pyxen_operand_in_two_pages(env, addr, 1 << s_bits, mmu_idx, retaddr);\n"
        "    }\n"
        "    if (unlikely(s_bits == 4 && (addr & 15))) {\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "What was copied from two pages is copied back.",
        "#define ATOMIC_MMU_CLEANUP\n",
        REPLACE,
        "#define ATOMIC_MMU_CLEANUP pyxen_operand_done(env)\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "A stop in the middle of an instruction runs its memory accesses twice when it resumes; and the check after every load and store "
        "costs a third of their speed. Stops happen between blocks only.",
        "void check_exit_request(TCGContext *tcg_ctx)\n{\n",
        AFTER,
        "    return;\n",
    ),
    Edit(
        "src/qemu/include/exec/gen-icount.h",
        "The check at the start of a block: two instructions instead of a call.",
        "static inline void gen_tb_start(TCGContext *tcg_ctx, TranslationBlock *tb)\n{\n",
        AFTER,
        "    TCGv_i32 pyxen_count = tcg_temp_new_i32(tcg_ctx);\n"
        "    TCGLabel *pyxen_stop = gen_new_label(tcg_ctx);\n"
        "\n"
        "    tcg_ctx->uc->pyxen_stop_label = pyxen_stop;\n"
        "    tcg_gen_ld_i32(tcg_ctx, pyxen_count, tcg_ctx->cpu_env,\n"
        "                   offsetof(ArchCPU, neg.icount_decr.u32) - offsetof(ArchCPU, env));\n"
        "    tcg_gen_brcondi_i32(tcg_ctx, TCG_COND_LT, pyxen_count, 0, pyxen_stop);\n"
        "    tcg_temp_free_i32(tcg_ctx, pyxen_count);\n"
        "    return;\n",
    ),
    Edit(
        "src/qemu/include/exec/gen-icount.h",
        "Where that check jumps to.",
        "    tcg_gen_exit_tb(tcg_ctx, tb, TB_EXIT_REQUESTED);\n",
        BEFORE,
        "    gen_set_label(tcg_ctx, tcg_ctx->uc->pyxen_stop_label);\n",
    ),
    Edit(
        ACCEL + "cpu-exec.c",
        "Kicks and invalidations from other threads.",
        "    cpu_neg(cpu)->icount_decr.u16.high = 0;\n",
        AFTER,
        "    if (pyxen_stop_requested(cpu, last_tb)) {\n        return true;\n    }\n",
    ),
    Edit(
        ACCEL + "atomic_template.h",
        "XCHG with memory is atomic. Upstream loads and stores, and a bit that another thread sets in between is lost.",
        "    ret = *haddr;\n    *haddr = val;\n",
        REPLACE,
        "    ret = __atomic_exchange_n(haddr, val, __ATOMIC_SEQ_CST);\n",
    ),
    # ------------------------------------------------------------------ exceptions
    Edit(
        ACCEL + "cpu-exec.c",
        "Exceptions leave the CPU (deprivileged guests) or go through the guest's IDT; no callbacks, nothing sticks.",
        "static inline bool cpu_handle_exception(CPUState *cpu, int *ret)\n{\n",
        AFTER,
        "    return pyxen_handle_exception(cpu, ret);\n",
    ),
    Edit(
        I386 + "excp_helper.c",
        "A triple fault is an exit, not a stop of the machine.",
        "        qemu_system_reset_request(env->uc);\n",
        BEFORE,
        "        pyxen_exit_triple_fault(env, retaddr);\n",
    ),
    # ------------------------------------------------------------------ instructions that leave the CPU
    Edit(
        I386 + "seg_helper.c",
        "SYSCALL exits, or does what the manual says; upstream only calls hooks.",
        "void helper_syscall(CPUX86State *env, int next_eip_addend)\n{\n",
        AFTER,
        "    pyxen_system_call(env, next_eip_addend, false, GETPC());\n    return;\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "SYSENTER, likewise.",
        "void helper_sysenter(CPUX86State *env, int next_eip_addend)\n{\n",
        AFTER,
        "    pyxen_system_call(env, next_eip_addend, true, GETPC());\n    return;\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "CPUID exits if asked to.",
        "void helper_cpuid(CPUX86State *env)\n{\n",
        AFTER,
        "    pyxen_exit_cpuid(env, GETPC());\n",
    ),
    Edit(
        I386 + "translate.c",
        "The length of CPUID with its prefixes.",
        "        gen_helper_cpuid(tcg_ctx, tcg_ctx->cpu_env);\n",
        BEFORE,
        "        tcg_gen_st_i32(tcg_ctx, tcg_const_i32(tcg_ctx, s->pc - pc_start), tcg_ctx->cpu_env,\n"
        "                       offsetof(CPUX86State, pyxen_length));\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "MSRs are the hypervisor's.",
        "void helper_wrmsr(CPUX86State *env)\n{\n",
        AFTER,
        "    pyxen_exit_msr(env, true, GETPC());\n    return;\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "MSRs are the hypervisor's.",
        "void helper_rdmsr(CPUX86State *env)\n{\n",
        AFTER,
        "    pyxen_exit_msr(env, false, GETPC());\n    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "The length of RDMSR and WRMSR with their prefixes.",
        "            if (b & 2) {\n                gen_helper_rdmsr(",
        BEFORE,
        "            tcg_gen_st_i32(tcg_ctx, tcg_const_i32(tcg_ctx, s->pc - pc_start), tcg_ctx->cpu_env,\n"
        "                           offsetof(CPUX86State, pyxen_length));\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "HLT and MWAIT exit.",
        "static void do_hlt(X86CPU *cpu)\n{\n",
        AFTER,
        "    pyxen_exit_halt(&cpu->env);\n    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "Upstream allows port I/O at any privilege and forgets it. Check as the manual says, then exit.",
        "    // Unicorn: allow all I/O instructions\n    return;\n",
        REPLACE,
        "    gen_update_cc_op(s);\n"
        "    gen_jmp_im(s, cur_eip);\n"
        "    tcg_gen_trunc_tl_i32(s->uc->tcg_ctx, s->tmp2_i32, s->T0);\n"
        "    gen_helper_pyxen_io(s->uc->tcg_ctx, s->uc->tcg_ctx->cpu_env, s->tmp2_i32,\n"
        "                        tcg_const_i32(s->uc->tcg_ctx, svm_flags | (1 << (4 + ot))),\n"
        "                        tcg_const_i32(s->uc->tcg_ctx, s->pc - s->pc_start));\n"
        "    return;\n",
    ),
    Edit(
        I386 + "translate.c",
        "INT1 is an instruction, not an invalid opcode.",
        "    case 0xfa: /* cli */\n",
        BEFORE,
        "    case 0xf1: /* int1 */\n        gen_interrupt(s, EXCP01_DB, pc_start - s->cs_base, s->pc - s->cs_base);\n        break;\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "A deprivileged kernel's far transfers are the hypervisor's: its selectors hide its privilege.",
        "void helper_ljmp_protected(CPUX86State *env, int new_cs, target_ulong new_eip,\n"
        "                           target_ulong next_eip)\n{\n",
        AFTER,
        "    pyxen_exit_far_transfer(env, GETPC());\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "Likewise.",
        "                            int shift, target_ulong next_eip)\n{\n    int new_stack, i;\n",
        AFTER,
        "    pyxen_exit_far_transfer(env, GETPC());\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "Likewise, but for an IRET that stays where it is: kernels use it to serialise the CPU, often.",
        "void helper_iret_protected(CPUX86State *env, int shift, int next_eip)\n{\n",
        AFTER,
        "    if (pyxen_iret_to_itself(env, shift, GETPC())) {\n        return;\n    }\n    pyxen_exit_far_transfer(env, GETPC());\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "Likewise.",
        "void helper_lret_protected(CPUX86State *env, int shift, int addend)\n{\n",
        AFTER,
        "    pyxen_exit_far_transfer(env, GETPC());\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "A deprivileged kernel loads data segments with the rights of ring 3, which its selectors name.",
        "    selector &= 0xffff;\n    cpl = env->hflags & HF_CPL_MASK;\n",
        AFTER,
        "    cpl = pyxen_segment_cpl(env, cpl);\n",
    ),
    Edit(
        I386 + "cpu.h",
        "No descriptor gives a deprivileged guest another privilege.",
        "            int cpl = (flags >> DESC_DPL_SHIFT) & 3;\n",
        AFTER,
        "            cpl = pyxen_new_cpl(env, cpl);\n",
    ),
    # ------------------------------------------------------------------ debug registers
    Edit(
        "src/qemu/exec.c",
        "Upstream took data breakpoints out. This one says which pages to look at.",
        "int cpu_watchpoint_address_matches(CPUState *cpu, vaddr addr, vaddr len)\n{\n",
        AFTER,
        "    return pyxen_watched_accesses(cpu, addr);\n",
    ),
    Edit(
        "src/qemu/exec.c",
        "And this one looks at each access to them.",
        "                          MemTxAttrs attrs, int flags, uintptr_t ra)\n{\n",
        AFTER,
        "    pyxen_check_watchpoints(cpu, addr, len, flags, ra);\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "Locked operations on a watched page are looked at, too, and stay atomic.",
        "    /* Let the guest notice RMW on a write-only page.  */\n    if (unlikely(tlbe->addr_read != (tlb_addr & ~TLB_NOTDIRTY))) {\n",
        REPLACE,
        "    if (unlikely((tlb_addr | tlbe->addr_read) & TLB_WATCHPOINT)) {\n"
        "        pyxen_check_watchpoints(env_cpu(env), addr, 1 << s_bits, BP_MEM_ACCESS, retaddr);\n"
        "    }\n"
        "    if (unlikely((tlbe->addr_read & ~TLB_WATCHPOINT) != (tlb_addr & ~(TLB_NOTDIRTY | TLB_WATCHPOINT)))) {\n",
    ),
    Edit(
        I386 + "bpt_helper.c",
        "Which pages are watched is kept in the TLB.",
        "void cpu_x86_update_dr7(CPUX86State *env, uint32_t new_dr7)\n{\n",
        AFTER,
        "    tlb_flush(env_cpu(env));\n",
    ),
    Edit(
        I386 + "bpt_helper.c",
        "Likewise, when a privileged guest moves a breakpoint. The upper halves of DR6 and DR7 are reserved.",
        "void helper_set_dr(CPUX86State *env, int reg, target_ulong t0)\n{\n",
        AFTER,
        "    if (reg >= 4 && t0 >> 32) {\n        raise_exception_ra(env, EXCP0D_GPF, GETPC());\n    }\n"
        "    if (env->dr[7] & 0xff) {\n        tlb_flush(env_cpu(env));\n    }\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "PAUSE ends a block, and with it came past the single-step trap.",
        "static void do_pause(X86CPU *cpu)\n{\n",
        AFTER,
        "    if (cpu->env.eflags & TF_MASK) {\n        helper_single_step(&cpu->env);\n    }\n",
    ),
    # The error code of a bad gate in 64-bit mode has the gate's number above three bits, whatever the size of a gate.
    *(
        Edit(
            I386 + "seg_helper.c",
            "A gate is named in 64-bit mode as in others.",
            f"{before}intno * 16 + 2);",
            REPLACE,
            f"{before}intno * 8 + 2);",
        )
        for before in (
            "    if (intno * 16 + 15 > dt->limit) {\n        raise_exception_err(env, EXCP0D_GPF, ",
            "    default:\n        raise_exception_err(env, EXCP0D_GPF, ",
            "    if (is_int && dpl < cpl) {\n        raise_exception_err(env, EXCP0D_GPF, ",
            "raise_exception_err(env, EXCP0B_NOSEG, ",
        )
    ),
)
