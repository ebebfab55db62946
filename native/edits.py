"""pyxen's changes to the engine's sources: where, what, and why.

Each edit names an anchor that must occur exactly once in its file, so a source package of another version fails loudly instead of
being changed in the wrong place. Where a function of the engine is to do nothing of what it did, the edit returns at its start: the
rest stays and the compiler drops it.
"""

from __future__ import annotations

from dataclasses import dataclass

AFTER, BEFORE, REPLACE = "after", "before", "replace"


@dataclass(frozen=True)
class Edit:
    path: str
    why: str
    anchor: str
    where: str
    text: str


ACCEL = "src/qemu/accel/tcg/"
I386 = "src/qemu/target/i386/"

EDITS: tuple[Edit, ...] = (
    # ------------------------------------------------------------------ our files and fields
    Edit(
        "src/CMakeLists.txt",
        "Compile pyxen's C files into the x86 library, where they see the CPU state by name.",
        "    qemu/target/i386/unicorn.c\n",
        AFTER,
        "    qemu/target/i386/pyxen_cpu.c\n    qemu/target/i386/pyxen_atomic.c\n    qemu/target/i386/pyxen_code.c\n"
        "    qemu/target/i386/pyxen_debug.c\n    qemu/target/i386/pyxen_decode.c\n"
        "    qemu/target/i386/pyxen_string.c\n    qemu/target/i386/pyxen_fpu.c\n"
        "    qemu/target/i386/pyxen_gate.c\n"
        "    qemu/target/i386/pyxen_injection.c\n    qemu/target/i386/pyxen_physical.c\n"
        "    qemu/target/i386/pyxen_access.c\n",
    ),
    Edit(
        "src/include/uc_priv.h",
        "Every instance belongs to a pyxen CPU.",
        "    bool skip_sync_pc_on_exit;\n",
        AFTER,
        "    struct pyxen_cpu *pyxen;\n"
        "    MemoryRegion *pyxen_ram; /* the only region, at physical address 0 */\n"
        "    uint64_t pyxen_ram_bytes;\n"
        "    void *pyxen_stop_label; /* of the block being translated */\n"
        "    int pyxen_segment;      /* that the address being translated goes through, if it is to be checked; or -1 */\n"
        "    int pyxen_alignment;    /* MO_ALIGN in a block that checks it */\n",
    ),
    Edit(
        I386 + "cpu.h",
        "The length of an instruction that exits, stored by the translator, which alone knows it.",
        "    /* Fields after this point are preserved across CPU reset. */\n",
        AFTER,
        "    uint32_t pyxen_length;\n",
    ),
    Edit(I386 + "cpu.h", "The hooks that the edits below call.", '#include "exec/cpu-defs.h"\n', AFTER, '#include "pyxen_hooks.h"\n'),
    Edit(
        I386 + "helper.h",
        "pyxen's own helpers.",
        "DEF_HELPER_3(outb, void, env, i32, i32)\n",
        BEFORE,
        "DEF_HELPER_4(pyxen_io, void, env, i32, i32, i32)\n"
        "DEF_HELPER_2(pyxen_rep_movs, void, env, i32)\n"
        "DEF_HELPER_2(pyxen_rep_stos, void, env, i32)\n"
        "DEF_HELPER_3(pyxen_check_segment, void, env, tl, i32)\n"
        "DEF_HELPER_1(pyxen_sse_begin, void, env)\n"
        "DEF_HELPER_1(pyxen_sse_end, void, env)\n",
    ),
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
        "Likewise, when a privileged guest moves a breakpoint.",
        "void helper_set_dr(CPUX86State *env, int reg, target_ulong t0)\n{\n",
        AFTER,
        "    if (env->dr[7] & 0xff) {\n        tlb_flush(env_cpu(env));\n    }\n",
    ),
    Edit(
        I386 + "misc_helper.c",
        "PAUSE ends a block, and with it came past the single-step trap.",
        "static void do_pause(X86CPU *cpu)\n{\n",
        AFTER,
        "    if (cpu->env.eflags & TF_MASK) {\n        helper_single_step(&cpu->env);\n    }\n",
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
        "    helper_pyxen_sse_begin(env);\n",
    ),
    Edit(
        I386 + "translate.c",
        "STMXCSR, likewise.",
        "            tcg_gen_ld32u_tl(tcg_ctx, s->T0, tcg_ctx->cpu_env, offsetof(CPUX86State, mxcsr));\n",
        BEFORE,
        "            gen_helper_pyxen_sse_begin(tcg_ctx, tcg_ctx->cpu_env);\n",
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
        "LFENCE orders RDTSC for the guest, but is no instruction of the host in translated code; so it is here.",
        "void helper_rdtsc(CPUX86State *env)\n{\n",
        AFTER,
        "    __builtin_ia32_lfence();\n",
    ),
    Edit(
        I386 + "cc_helper.c",
        "PUSHF stores neither VM nor RF.",
        "target_ulong helper_read_eflags(CPUX86State *env)\n{\n",
        AFTER,
        "    return cpu_compute_eflags(env) & ~(target_ulong)(VM_MASK | RF_MASK);\n",
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
        "        TCGv_i32 access = tcg_const_i32(tcg_ctx, segment | size << 8 | write << 16);\n"
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
    # ------------------------------------------------------------------ addresses
    Edit(
        I386 + "excp_helper.c",
        "An address that is not canonical is #SS(0) when it is the stack's, not #GP(0).",
        "        raise_exception_err_ra(env, cs->exception_index,\n",
        BEFORE,
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
        I386 + "translate.c",
        "A 16-byte store into a page that is not there writes nothing: the upper half, which reaches there, goes first.",
        "static inline void gen_sto_env_A0(DisasContext *s, int offset)\n{\n",
        AFTER,
        "    TCGContext *pyxen_tcg = s->uc->tcg_ctx;\n"
        "    tcg_gen_addi_tl(pyxen_tcg, s->tmp0, s->A0, 8);\n"
        "    tcg_gen_ld_i64(pyxen_tcg, s->tmp1_i64, pyxen_tcg->cpu_env, offset + offsetof(ZMMReg, ZMM_Q(1)));\n"
        "    tcg_gen_qemu_st_i64(pyxen_tcg, s->tmp1_i64, s->tmp0, s->mem_index, MO_LEQ);\n"
        "    tcg_gen_ld_i64(pyxen_tcg, s->tmp1_i64, pyxen_tcg->cpu_env, offset + offsetof(ZMMReg, ZMM_Q(0)));\n"
        "    tcg_gen_qemu_st_i64(pyxen_tcg, s->tmp1_i64, s->A0, s->mem_index, MO_LEQ);\n"
        "    return;\n",
    ),
    Edit(
        I386 + "seg_helper.c",
        "A far call beyond the limit of its segment is #GP(0); upstream gives the selector.",
        "                raise_exception_err_ra(env, EXCP0D_GPF, new_cs & 0xfffc, GETPC());\n            }\n"
        "            /* from this point, not restartable */\n",
        BEFORE,
        "                raise_exception_err_ra(env, EXCP0D_GPF, 0, GETPC());\n",
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
)
