/* XSA-195: emulated BT* with a register operand accessed memory far from the operand. XSA-200: emulated CMPXCHG8B ignored the operand size.
 * XSA-123: segment overrides on register operands. XSA-186: the instruction pointer in emulation. On writes to a page table. */
#include "guest.h"

static u8 window[16 * PAGE_SIZE] page_aligned;

PROGRAM(xsa_195_bit_test_emulation)
{
    u64 *pte = pte_of((unsigned long)window, 1), before[12];
    u64 old_next = pte[1];
    struct trap_record trap;
    u8 carry;

    check_equal(hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0, "writable page tables");
    memcpy(before, pte, sizeof(before));
    trap = TRAP_OF(MAY_FAULT("btrq %1, (%0)")::"r"(pte), "r"(3 * 64UL + 1) : "memory", "cc");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_PF, "XSA-195: btr with an offset of 193 bits");
    check_equal(pte[0], before[0], "XSA-195: not the entry of the base");
    if (trap.kind == KIND_NONE)
        check_equal(pte[3], before[3] & ~2UL, "XSA-195: but the third after it");
    trap = TRAP_OF(MAY_FAULT("btrq %1, (%0)")::"r"(pte + 8), "r"(-5 * 64L + 1) : "memory", "cc");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_PF, "XSA-195: btr with a negative offset");
    check_equal(pte[8], before[8], "XSA-195: not the entry of the base");
    if (trap.kind == KIND_NONE)
        check_equal(pte[3], before[3] & ~2UL, "XSA-195: but five before it");
    trap = TRAP_OF(MAY_FAULT("btrq $65, (%0)\n")::"r"(pte) : "memory", "cc");
    if (trap.kind == KIND_NONE)
        check_equal(pte[0], before[0] & ~2UL, "XSA-195: an immediate counts modulo 64");
    check_equal(pte[1], old_next, "XSA-195: the next is as before");
    trap = TRAP_OF(MAY_FAULT("btsq %1, (%0)")::"r"(1UL << 40), "r"(8 * ((u64)pte - (1UL << 40)) + 1) : "memory", "cc");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_PF, "XSA-195: a base that is not mapped");
    trap = TRAP_OF(MAY_FAULT(".byte 0x66; cmpxchg8b (%0)")::"r"(pte), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_PF, "XSA-200: cmpxchg8b with an operand-size prefix");
    trap = TRAP_OF(MAY_FAULT("lock cmpxchg16b (%0)")::"r"((u64)pte & ~15UL), "a"(0), "b"(0), "c"(0), "d"(0) : "memory", "cc");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_PF, "cmpxchg16b");
    trap = TRAP_OF(MAY_FAULT(".byte 0x2e, 0x3e, 0x36; mov %%cr0, %%rax")::: "rax");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_GP, "XSA-123: segment overrides before a register operand");
    trap = TRAP_OF(MAY_FAULT(".byte 0x65; clts")::: "memory");
    check(trap.kind == KIND_NONE || trap.kind == VECTOR_GP, "XSA-123: an override before clts");
    asm volatile("btq $0, (%1)\n setc %0" : "=q"(carry) : "r"(pte) : "memory", "cc");
    check_equal(carry, 1, "a plain read of the table");
    for (int i = 0; i < 12; i++)
        pte_write(&pte[i], before[i]);
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
}
