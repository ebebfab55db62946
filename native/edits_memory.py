"""Edits about memory: physical addresses, translated code, segments, alignment."""

from __future__ import annotations

from edit import ACCEL, AFTER, BEFORE, I386, REPLACE, Edit

EDITS: tuple[Edit, ...] = (
    # ------------------------------------------------------------------ physical memory
    Edit(
        I386 + "helper.c",
        "Page walks read memory directly.",
        "uint64_t x86_ldq_phys(CPUState *cs, hwaddr addr)\n{\n",
        AFTER,
        "    return pyxen_read_pte(cs, addr);\n",
    ),
    Edit(
        I386 + "excp_helper.c",
        "What a guest takes for a physical address is looked up, where nested paging would be; what is no memory is an exit.",
        "static hwaddr get_hphys(CPUState *cs, hwaddr gphys, MMUAccessType access_type,\n                        int *prot)\n{\n",
        AFTER,
        "    return pyxen_physical(cs, gphys, access_type, prot);\n",
    ),
    Edit(
        I386 + "helper.c",
        "Accessed and dirty bits are set atomically and only in the entry that was read: others may have changed it.",
        "void x86_stl_phys_notdirty(CPUState *cs, hwaddr addr, uint32_t val)\n{\n",
        AFTER,
        "    pyxen_set_pte_flags(cs, addr, val);\n    return;\n",
    ),
    Edit(
        I386 + "excp_helper.c",
        "An entry that has changed before its bits were set is read again: a store through the old one would leave no trace.",
        "    is_write = is_write1 & 1;\n\n    a20_mask = x86_get_a20_mask(env);\n    if (!(env->cr[0] & CR0_PG_MASK)) {\n",
        BEFORE,
        "pyxen_walk:\n    rsvd_mask = PG_HI_RSVD_MASK;\n    error_code = 0;\n",
    ),
    Edit(
        I386 + "excp_helper.c",
        "Likewise.",
        "    if (!(pte & PG_DIRTY_MASK)) {\n        /* only set write access if already dirty... otherwise wait\n",
        BEFORE,
        "    if (unlikely(pyxen_entry_changed(cs))) {\n        goto pyxen_walk;\n    }\n\n",
    ),
    Edit(
        "src/qemu/unicorn_common.h",
        "There is one region; looking it up on every slow access is most of what such an access costs.",
        "MemoryRegion *find_memory_mapping(struct uc_struct *uc, hwaddr address)\n{\n",
        AFTER,
        "    if (address < uc->pyxen_ram_bytes) {\n        return uc->pyxen_ram;\n    }\n",
    ),
    # ------------------------------------------------------------------ the TLB's size
    Edit(
        "src/qemu/include/exec/cpu-defs.h",
        "Misses since the last flush; flushes in the window.",
        "    size_t n_used_entries;\n",
        AFTER,
        "    size_t pyxen_fills, pyxen_flushes;\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "They begin anew.",
        "    desc->n_used_entries = 0;\n    desc->large_page_addr = -1;\n",
        BEFORE,
        "    desc->pyxen_fills = 0;\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "Upstream looks at its size when it is flushed only, and a process that works on much memory flushes nothing.",
        "void tlb_set_page_with_attrs(CPUState *cpu, target_ulong vaddr,\n",
        BEFORE,
        """/* A TLB that is full and has been filled several times over is too small, up to this. */
#define PYXEN_LARGEST_TLB 8192
#define PYXEN_FILLS_OF_A_SMALL_TLB 4

static void pyxen_grow_tlb(CPUArchState *env, int mmu_idx)
{
    CPUTLBDesc *desc = &env_tlb(env)->d[mmu_idx];
    size_t size = tlb_n_entries(&env_tlb(env)->f[mmu_idx]);

    if (unlikely(++desc->pyxen_fills > PYXEN_FILLS_OF_A_SMALL_TLB * size) && size < PYXEN_LARGEST_TLB &&
        desc->n_used_entries > size / 10 * 8) {
        tlb_flush_one_mmuidx_locked(env, mmu_idx, get_clock_realtime()); /* doubles it */
    }
}

""",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "A large one that is flushed often costs more than it brings: see it small again after some flushes, not after 100 ms.",
        "    bool window_expired = now > desc->window_begin_ns + window_len_ns;\n",
        REPLACE,
        "    bool window_expired = now > desc->window_begin_ns + window_len_ns || (old_size > 1024 && ++desc->pyxen_flushes > 8);\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "They are counted by window.",
        "    desc->window_begin_ns = ns;\n",
        BEFORE,
        "    desc->pyxen_flushes = 0;\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "Before it is looked where in it the entry goes.",
        "    // assert_cpu_is_self(cpu);\n\n    if (size <= TARGET_PAGE_SIZE) {\n        sz = TARGET_PAGE_SIZE;\n",
        BEFORE,
        "    pyxen_grow_tlb(env, mmu_idx);\n",
    ),
    # ------------------------------------------------------------------ translated code
    Edit(
        ACCEL + "cputlb.c",
        "Upstream sends the stores to every writable and executable page the slow way, and misses those through another "
        "address. Ask whether some CPU holds code of the frame.",
        "            } else if (cpu_physical_memory_is_clean(iotlb)) {\n",
        REPLACE,
        "            } else if (pyxen_frame_is_clean(cpu->uc, iotlb)) {\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "A frame begins to hold code: notice stores to it.",
        "void tlb_protect_code(struct uc_struct *uc, ram_addr_t ram_addr)\n{\n",
        AFTER,
        "    pyxen_protect_frame(uc, ram_addr);\n",
    ),
    Edit(
        ACCEL + "translate-all.c",
        "And that before its code is read: what is stored while it is translated would go unnoticed.",
        "    phys_pc = get_page_addr_code(env, pc);\n\n    if (phys_pc == -1) {\n        /* Generate a temporary TB; do not cache */\n",
        BEFORE,
        "    phys_pc = get_page_addr_code(env, pc);\n    if (phys_pc != -1) {\n        pyxen_protect_frame(cpu->uc, phys_pc);\n    }\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "A frame holds no more code.",
        "void tlb_unprotect_code(struct uc_struct *uc, ram_addr_t ram_addr)\n{\n",
        AFTER,
        "    pyxen_unprotect_frame(uc, ram_addr);\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "A store to a frame that holds code.",
        "                           CPUIOTLBEntry *iotlbentry, uintptr_t retaddr,\n                           CPUTLBEntry *tlbe)\n{\n",
        AFTER,
        "    pyxen_write_clean_frame(cpu, mem_vaddr, mem_vaddr + iotlbentry->addr, size, retaddr);\n    return;\n",
    ),
    Edit(
        ACCEL + "translate-all.c",
        "tlb_protect_code does this by frame, once; by address, for every block, it costs more than the translation.",
        "    if (!uc_mem_hook_installed(cpu->uc, tb->pc)) {\n",
        REPLACE,
        "    if (0) {\n",
    ),
    Edit(
        ACCEL + "translate-all.c",
        "All blocks are dropped at once.",
        "    page_flush_tb(cpu->uc);\n",
        AFTER,
        "    pyxen_all_code_dropped(cpu->uc);\n",
    ),
    Edit(
        ACCEL + "translate-all.c",
        "Drop what a store overwrites, without the allocations when it overwrites no code.",
        "/* user-mode: call with mmap_lock held */\nvoid tb_check_watchpoint(",
        BEFORE,
        "void pyxen_drop_written_code(struct uc_struct *uc, uint64_t offset, int size, uintptr_t retaddr)\n"
        "{\n"
        "    PageDesc *p = page_find(uc, offset >> TARGET_PAGE_BITS);\n"
        "    struct page_collection *pages;\n"
        "    int first = offset & ~TARGET_PAGE_MASK;\n"
        "\n"
        "    if (!p || !p->first_tb) {\n"
        "        pyxen_unprotect_frame(uc, offset);\n"
        "        return;\n"
        "    }\n"
        "    if (!p->code_bitmap && ++p->code_write_count >= SMC_BITMAP_USE_THRESHOLD) {\n"
        "        build_page_bitmap(uc, p);\n"
        "    }\n"
        "    if (p->code_bitmap && find_next_bit(p->code_bitmap, first + size, first) >= first + size) {\n"
        "        return;\n"
        "    }\n"
        "    pages = page_collection_lock(uc, offset, offset + size);\n"
        "    tb_invalidate_phys_page_range__locked(uc, pages, p, offset, offset + size, retaddr);\n"
        "    page_collection_unlock(pages);\n"
        "}\n"
        "\n",
    ),
    # ------------------------------------------------------------------ blocks and pages
    Edit(
        I386 + "translate.c",
        "An instruction that reaches into the next page begins a block of its own. Otherwise a fault on that page is reported at the "
        "start of a block whose first instructions have not run; and blocks on two pages cannot be chained.",
        "    uint64_t pc = s->pc;\n\n    s->pc += num_bytes;\n",
        BEFORE,
        "    if (s->base.num_insns > 1 && (((s->pc + num_bytes - 1) ^ s->base.pc_first) & TARGET_PAGE_MASK)) {\n"
        "        siglongjmp(s->jmpbuf, 2);\n"
        "    }\n"
        "    if (((s->pc + num_bytes - 1) ^ s->base.pc_first) & TARGET_PAGE_MASK) {\n"
        "        /* That page is read, too. */\n"
        "        pyxen_protect_frame(env->uc, get_page_addr_code(env, (s->pc + num_bytes - 1) & TARGET_PAGE_MASK));\n"
        "    }\n",
    ),
    Edit(
        I386 + "translate.c",
        "Forget what has been decoded of that instruction and end the block before it.",
        "    if (sigsetjmp(s->jmpbuf, 0) != 0) {\n",
        REPLACE,
        "    TCGOp *pyxen_last_op = tcg_last_op(tcg_ctx);\n"
        "    CCOp pyxen_cc_op = s->cc_op;\n"
        "    bool pyxen_cc_op_dirty = s->cc_op_dirty;\n"
        "    int pyxen_jump = sigsetjmp(s->jmpbuf, 0);\n"
        "    if (pyxen_jump == 2) {\n"
        "        while (tcg_last_op(tcg_ctx) != pyxen_last_op) {\n"
        "            tcg_op_remove(tcg_ctx, tcg_last_op(tcg_ctx));\n"
        "        }\n"
        "        s->cc_op = pyxen_cc_op;\n"
        "        s->cc_op_dirty = pyxen_cc_op_dirty;\n"
        "        s->base.is_jmp = DISAS_TOO_MANY;\n"
        "        return pc_start;\n"
        "    }\n"
        "    if (pyxen_jump != 0) {\n",
    ),
    Edit(
        I386 + "translate.c",
        "A block that ends only because it is full or at the end of its page goes on to the next without a detour through the main loop.",
        "        gen_jmp_im(dc, dc->base.pc_next - dc->cs_base);\n        gen_eob(dc);\n",
        REPLACE,
        "        gen_jmp_im(dc, dc->base.pc_next - dc->cs_base);\n"
        "        if (dc->jmp_opt) {\n"
        "            gen_jr(dc, dc->tmp0);\n"
        "        } else {\n"
        "            gen_eob(dc);\n"
        "        }\n",
    ),
    # ------------------------------------------------------------------ segments and alignment
    Edit(
        I386 + "cpu.h",
        "Which segments are not flat follows every load of one.",
        "                       ~(HF_SS32_MASK | HF_ADDSEG_MASK)) | new_hflags;\n    }\n",
        AFTER,
        "    pyxen_segments_changed(env);\n",
    ),
    Edit(
        I386 + "cpu.h",
        "Blocks that check alignment are others than those that do not.",
        "        (env->eflags & (IOPL_MASK | TF_MASK | RF_MASK | VM_MASK | AC_MASK));\n",
        AFTER,
        "    if (unlikely(env->eflags & AC_MASK) && pyxen_checks_alignment(env)) {\n        *flags |= PYXEN_HF_ALIGNED;\n    }\n",
    ),
    Edit(
        I386 + "cpu.c",
        "What a misaligned access does then.",
        "    cc->debug_excp_handler = breakpoint_handler;\n",
        AFTER,
        "    cc->do_unaligned_access = pyxen_unaligned_access;\n",
    ),
    Edit(
        I386 + "cpu.c",
        "Likewise.",
        "static void x86_cpu_common_class_init(",
        BEFORE,
        "void pyxen_unaligned_access(CPUState *cs, vaddr address, MMUAccessType access, int mmu_idx, uintptr_t retaddr);\n",
    ),
    Edit(
        I386 + "translate.c",
        "What a block checks is decided when its translation begins.",
        "    dc->flags = flags;\n",
        AFTER,
        "    cpu->uc->pyxen_alignment = flags & PYXEN_HF_ALIGNED ? MO_ALIGN : 0;\n    cpu->uc->pyxen_segment = -1;\n",
    ),
    Edit(
        I386 + "translate.c",
        "A checked segment lasts for an instruction.",
        "    dc->prev_pc = dc->base.pc_next - dc->cs_base;\n",
        AFTER,
        "    dc->uc->pyxen_segment = -1;\n",
    ),
    Edit(
        I386 + "translate.c",
        "Every load of a segment may change what is checked; in 64-bit code, nothing is.",
        "        if (seg_reg == R_SS || (s->code32 && seg_reg < R_FS)) {\n",
        REPLACE,
        "        if (seg_reg == R_SS || (s->code32 && seg_reg < R_FS) || !CODE64(s)) {\n",
    ),
    Edit(
        I386 + "translate.c",
        "Addresses go through a segment: upstream adds its base only.",
        "static void gen_lea_v_seg(DisasContext *s, MemOp aflag, TCGv a0,\n",
        REPLACE,
        "static void pyxen_lea_v_seg(DisasContext *s, MemOp aflag, TCGv a0,\n",
    ),
    Edit(
        I386 + "translate.c",
        "The first octet is checked with the address, for instructions that leave their accesses to a helper; all of it with each access.",
        "static inline void gen_string_movl_A0_ESI(DisasContext *s)\n",
        BEFORE,
        "void pyxen_check_access(TCGContext *tcg_ctx, TCGv address, unsigned size, bool write)\n"
        "{\n"
        "    int segment = tcg_ctx->uc->pyxen_segment;\n"
        "\n"
        "    if (unlikely(segment >= 0)) {\n"
        "        TCGv_i32 access = tcg_const_i32(tcg_ctx, segment | size << 8 | write << 24);\n"
        "\n"
        "        gen_helper_pyxen_check_segment(tcg_ctx, tcg_ctx->cpu_env, address, access);\n"
        "        tcg_temp_free_i32(tcg_ctx, access);\n"
        "    }\n"
        "}\n"
        "\n"
        "static void gen_lea_v_seg(DisasContext *s, MemOp aflag, TCGv a0, int def_seg, int ovr_seg)\n"
        "{\n"
        "    int segment = ovr_seg >= 0 ? ovr_seg : def_seg;\n"
        "\n"
        "    pyxen_lea_v_seg(s, aflag, a0, def_seg, ovr_seg);\n"
        "    s->uc->pyxen_segment = segment >= 0 && pyxen_segment_is_checked(s->uc->cpu->env_ptr, s->flags, segment) ? segment : -1;\n"
        "    pyxen_check_access(s->uc->tcg_ctx, s->A0, 1, false);\n"
        "}\n"
        "\n"
        "/* An operand that a helper will access. */\n"
        "static void pyxen_check_operand(DisasContext *s, unsigned size, bool write, int alignment)\n"
        "{\n"
        "    TCGContext *tcg_ctx = s->uc->tcg_ctx;\n"
        "\n"
        "    pyxen_check_access(tcg_ctx, s->A0, size, write);\n"
        "    if (s->uc->pyxen_alignment) {\n"
        "        gen_helper_pyxen_check_alignment(tcg_ctx, tcg_ctx->cpu_env, s->A0, tcg_const_i32(tcg_ctx, alignment));\n"
        "    }\n"
        "}\n"
        "\n",
    ),
    Edit(
        I386 + "translate.c",
        "Code beyond the limit of CS is not executed.",
        "    if (unlikely(s->pc - s->pc_start > X86_MAX_INSN_LENGTH)) {\n",
        BEFORE,
        "    if (unlikely(s->flags & PYXEN_HF_LIMITED_CODE) &&\n"
        "        (uint32_t)(s->pc - 1 - s->cs_base) > ((CPUX86State *)s->uc->cpu->env_ptr)->segs[R_CS].limit) {\n"
        "        siglongjmp(s->jmpbuf, 1);\n"
        "    }\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "The checks themselves, in x86_64's translate.c.",
        "static inline MemOp tcg_canonicalize_memop(MemOp op, bool is64, bool st)\n",
        BEFORE,
        "void pyxen_check_access(TCGContext *tcg_ctx, TCGv address, unsigned size, bool write);\n\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "Loads and stores of up to 32 bits.",
        "static void gen_ldst_i32(TCGContext *tcg_ctx, TCGOpcode opc, TCGv_i32 val, TCGv addr,\n"
        "                         MemOp memop, TCGArg idx)\n{\n    TCGMemOpIdx oi = make_memop_idx(memop, idx);\n",
        REPLACE,
        "static void gen_ldst_i32(TCGContext *tcg_ctx, TCGOpcode opc, TCGv_i32 val, TCGv addr,\n"
        "                         MemOp memop, TCGArg idx)\n{\n"
        "    TCGMemOpIdx oi = make_memop_idx(memop | tcg_ctx->uc->pyxen_alignment, idx);\n"
        "\n"
        "    pyxen_check_access(tcg_ctx, addr, 1 << (memop & MO_SIZE), opc == INDEX_op_qemu_st_i32);\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "Compare and exchange of up to 32 bits.",
        "    memop = tcg_canonicalize_memop(memop, 0, 0);\n\n    if (!(tcg_ctx->tb_cflags & CF_PARALLEL)) {\n",
        BEFORE,
        "    pyxen_check_access(tcg_ctx, addr, 1 << (memop & MO_SIZE), true);\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "Loads and stores of up to 64 bits.",
        "static void gen_ldst_i64(TCGContext *tcg_ctx, TCGOpcode opc, TCGv_i64 val, TCGv addr,\n"
        "                         MemOp memop, TCGArg idx)\n{\n    TCGMemOpIdx oi = make_memop_idx(memop, idx);\n",
        REPLACE,
        "static void gen_ldst_i64(TCGContext *tcg_ctx, TCGOpcode opc, TCGv_i64 val, TCGv addr,\n"
        "                         MemOp memop, TCGArg idx)\n{\n"
        "    TCGMemOpIdx oi = make_memop_idx(memop | tcg_ctx->uc->pyxen_alignment, idx);\n"
        "\n"
        "    pyxen_check_access(tcg_ctx, addr, 1 << (memop & MO_SIZE), opc == INDEX_op_qemu_st_i64);\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "Compare and exchange of up to 64 bits.",
        "    memop = tcg_canonicalize_memop(memop, 1, 0);\n\n    if (!(tcg_ctx->tb_cflags & CF_PARALLEL)) {\n",
        BEFORE,
        "    pyxen_check_access(tcg_ctx, addr, 1 << (memop & MO_SIZE), true);\n",
    ),
    Edit(
        "src/qemu/tcg/tcg-op.c",
        "Other locked operations, of up to 32 bits.",
        "    memop = tcg_canonicalize_memop(memop, 0, 0);\n\n    gen = table[memop & (MO_SIZE | MO_BSWAP)];\n",
        BEFORE,
        "    pyxen_check_access(tcg_ctx, addr, 1 << (memop & MO_SIZE), true);\n",
    ),
    Edit(
        ACCEL + "cputlb.c",
        "The alignment of locked operations, for which blocks have no flag.",
        "    int a_bits = get_alignment_bits(mop);\n",
        REPLACE,
        "    int a_bits = unlikely(pyxen_checks_alignment(env)) ? mop & MO_SIZE : get_alignment_bits(mop);\n",
    ),
    # ------------------------------------------------------------------ operands of helpers
    Edit(
        I386 + "translate.c",
        "All of an operand of the x87 is checked before any of it is accessed.",
        "                    gen_helper_fldenv(tcg_ctx, tcg_ctx->cpu_env, s->A0, tcg_const_i32(tcg_ctx, dflag - 1));\n",
        BEFORE,
        "                    pyxen_check_operand(s, dflag == MO_16 ? 14 : 28, false, dflag == MO_16 ? 2 : 4);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_fstenv(tcg_ctx, tcg_ctx->cpu_env, s->A0, tcg_const_i32(tcg_ctx, dflag - 1));\n",
        BEFORE,
        "                    pyxen_check_operand(s, dflag == MO_16 ? 14 : 28, true, dflag == MO_16 ? 2 : 4);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_fldt_ST0(tcg_ctx, tcg_ctx->cpu_env, s->A0);\n",
        BEFORE,
        "                    pyxen_check_operand(s, 10, false, 8);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_fstt_ST0(tcg_ctx, tcg_ctx->cpu_env, s->A0);\n",
        BEFORE,
        "                    pyxen_check_operand(s, 10, true, 8);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_frstor(tcg_ctx, tcg_ctx->cpu_env, s->A0, tcg_const_i32(tcg_ctx, dflag - 1));\n",
        BEFORE,
        "                    pyxen_check_operand(s, dflag == MO_16 ? 94 : 108, false, dflag == MO_16 ? 2 : 4);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_fsave(tcg_ctx, tcg_ctx->cpu_env, s->A0, tcg_const_i32(tcg_ctx, dflag - 1));\n",
        BEFORE,
        "                    pyxen_check_operand(s, dflag == MO_16 ? 94 : 108, true, dflag == MO_16 ? 2 : 4);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_fbld_ST0(tcg_ctx, tcg_ctx->cpu_env, s->A0);\n",
        BEFORE,
        "                    pyxen_check_operand(s, 10, false, 8);\n",
    ),
    Edit(
        I386 + "translate.c",
        "Likewise.",
        "                    gen_helper_fbst_ST0(tcg_ctx, tcg_ctx->cpu_env, s->A0);\n",
        BEFORE,
        "                    pyxen_check_operand(s, 10, true, 8);\n",
    ),
    Edit(
        I386 + "translate.c",
        "All of the image, too; its alignment faults like SSE's.",
        "            gen_lea_modrm(env, s, modrm);\n            gen_helper_fxsave(",
        REPLACE,
        "            gen_lea_modrm(env, s, modrm);\n            pyxen_check_operand(s, 512, true, 16);\n            gen_helper_fxsave(",
    ),
    Edit(
        I386 + "translate.c",
        "All of the image, too; its alignment faults like SSE's.",
        "            gen_lea_modrm(env, s, modrm);\n            gen_helper_fxrstor(",
        REPLACE,
        "            gen_lea_modrm(env, s, modrm);\n            pyxen_check_operand(s, 512, false, 16);\n            gen_helper_fxrstor(",
    ),
    # ------------------------------------------------------------------ addresses
    Edit(
        I386 + "excp_helper.c",
        "An address that is not canonical is #SS(0) when it is the stack's, not #GP(0). And where stores of 16 octets fault.",
        "        raise_exception_err_ra(env, cs->exception_index,\n",
        BEFORE,
        "        pyxen_correct_fault_address(cs, addr, access_type == MMU_DATA_STORE, retaddr);\n"
        "        if (cs->exception_index == EXCP0D_GPF && access_type != MMU_INST_FETCH) {\n"
        "            cpu_restore_state(cs, retaddr, true);\n"
        "            if (pyxen_is_stack_access(env, addr)) {\n"
        "                cs->exception_index = EXCP0C_STACK;\n"
        "            } else {\n"
        "                cs->exception_index = EXCP0D_GPF; /* looking at the instruction may have changed it */\n"
        "            }\n"
        "            env->error_code = 0;\n"
        "        }\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "A far call beyond the limit of its segment is #GP(0); upstream gives the selector.",
        "                raise_exception_err_ra(env, EXCP0D_GPF, new_cs & 0xfffc, GETPC());\n            }\n"
        "            /* from this point, not restartable */\n",
        BEFORE,
        "                raise_exception_err_ra(env, EXCP0D_GPF, 0, GETPC());\n",
    ),
)
