/* XSA-470: recovery of the flags in emulation stubs crashed the host. XSA-451: exceptions out of emulation stubs. XSA-123: flags after emulation.
 * Emulated instructions with TF, AC, NT, DF and all arithmetic flags: each keeps them, and a step after one is one step. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

static u64 flags_after(u64 flags, u64 *pte)
{
    u64 after;

    asm volatile("push %[flags]\n popfq\n mov %%cr0, %%rax\n pushfq\n pop %[after]\n pushq $2\n popfq"
                 : [after] "=&r"(after)
                 : [flags] "r"(flags), "r"(pte)
                 : "rax", "memory", "cc");
    return after;
}

PROGRAM(xsa_470_emulation_flags)
{
    static const u64 sets[] = {0x8d5, X86_EFLAGS_DF, X86_EFLAGS_NT, X86_EFLAGS_AC, 0x8d5 | X86_EFLAGS_DF | X86_EFLAGS_NT | X86_EFLAGS_AC, 1UL << 21};
    u64 *pte = pte_of((unsigned long)window, 1), before = *pte, flags;
    struct trap_record trap;

    hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables);
    for (size_t i = 0; i < ARRAY_SIZE(sets); i++) {
        check_equal((flags_after(sets[i] | 2, pte) ^ sets[i]) & 0x244dd5, 0, "XSA-470: flags after an emulated MOV from CR0");
        asm volatile("push %[set]\n popfq\n movq %[value], (%[pte])\n pushfq\n pop %[flags]\n pushq $2\n popfq"
                     : [flags] "=&r"(flags)
                     : [set] "r"(sets[i] | 2), [value] "r"(before), [pte] "r"(pte)
                     : "memory", "cc");
        check_equal((flags ^ sets[i]) & 0x244dd5, 0, "XSA-123: flags after an emulated store to a page table");
    }
    asm volatile("movq %2, (%1)\n lock addq $0, (%1)\n pushfq\n pop %0" : "=&r"(flags) : "r"(pte), "r"(before) : "memory", "cc");
    check_equal(flags & (X86_EFLAGS_CF | 0x40), 0, "XSA-451: flags of an emulated LOCK ADD");
    check_equal(*pte & ~(PTE_A | PTE_D), before & ~(PTE_A | PTE_D), "the entry is as before");
    trap_expect(VECTOR_DB);
    trap_forget();
    asm volatile("pushfq\n orq $0x100, (%%rsp)\n popfq\n mov %%cr0, %%rax\n pushfq\n andq $~0x100, (%%rsp)\n popfq\n nop" ::: "rax", "memory", "cc");
    trap = trap_record;
    check(trap.kind == VECTOR_DB && trap.count >= 2 && trap.count <= 4, "XSA-470: %u steps", trap.count);
    trap = TRAP_OF(MAY_FAULT(".byte 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x66, 0x0f, 0x20, 0xc0")::: "rax");
    check(trap.kind == VECTOR_GP || trap.kind == VECTOR_UD, "XSA-451: an instruction of 16 octets, got %u", trap.kind);
}
