/* Direct writes to an L1 page table, which is mapped read-only: a fault until VMASST_TYPE_writable_pagetables, then emulated and checked. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

static void flush(void)
{
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
}

PROGRAM(pte_emulation)
{
    u64 *pte = pte_of((unsigned long)window, 1), *a = page_alloc(), *b = page_alloc();
    u64 entry_a = make_pte(virt_to_mfn(a), PTE_DATA), entry_b = make_pte(virt_to_mfn(b), PTE_DATA), old;
    struct trap_record trap;
    bool swapped;

    *a = 0xa;
    *b = 0xb;
    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(pte), "r"(entry_a) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "a direct write without the assist");
    check_equal(trap.cr2, (u64)pte, "CR2");
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0, "enable writable_pagetables");

    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(pte), "r"(entry_a) : "memory");
    check_equal(trap.kind, KIND_NONE, "mov");
    flush();
    check_equal(*(volatile u64 *)window, 0xa, "takes effect");
    old = entry_b;
    trap = TRAP_OF(MAY_FAULT("xchgq %1, %0") : "+m"(*pte), "+r"(old)::"memory");
    check_equal(trap.kind, KIND_NONE, "xchg");
    check_equal(old & PTE_FRAME, entry_a & PTE_FRAME, "gives the old entry");
    flush();
    check_equal(*(volatile u64 *)window, 0xb, "takes effect");
    old = *pte;
    trap = TRAP_OF(MAY_FAULT("lock cmpxchgq %3, %0\n sete %b2")
                   : "+m"(*pte), "+a"(old), "=q"(swapped)
                   : "r"(entry_a)
                   : "memory", "cc");
    check_equal(trap.kind, KIND_NONE, "cmpxchg");
    check(swapped, "which finds the value expected");
    flush();
    check_equal(*(volatile u64 *)window, 0xa, "takes effect");
    old = 0x123;
    trap = TRAP_OF(MAY_FAULT("lock cmpxchgq %3, %0\n sete %b2")
                   : "+m"(*pte), "+a"(old), "=q"(swapped)
                   : "r"(entry_b)
                   : "memory", "cc");
    check(trap.kind == KIND_NONE && !swapped, "cmpxchg with another value expected");
    check_equal(old & PTE_FRAME, entry_a & PTE_FRAME, "gives the entry");
    flush();
    check_equal(*(volatile u64 *)window, 0xa, "and changes nothing");

    trap = TRAP_OF(MAY_FAULT("lock btrq %1, %0") : "+m"(*pte) : "r"(1UL) : "memory", "cc");
    check_equal(trap.kind, KIND_NONE, "lock btr of RW");
    check_equal(*pte & PTE_RW, 0, "clears it");
    flush();
    check_trap(TRAP_OF(MAY_FAULT("movb $1, (%0)")::"r"(window) : "memory"), VECTOR_PF, PF_PRESENT | PF_WRITE, "read-only now");
    trap = TRAP_OF(MAY_FAULT("lock orq %1, %0") : "+m"(*pte) : "r"(PTE_RW) : "memory", "cc");
    check_equal(trap.kind, KIND_NONE, "lock or of RW");
    check_equal(*pte & PTE_RW, PTE_RW, "sets it");
    trap = TRAP_OF(MAY_FAULT("lock andq %1, %0") : "+m"(*pte) : "r"(~PTE_D) : "memory", "cc");
    check_equal(trap.kind, KIND_NONE, "lock and of D");
    check_equal(*pte & PTE_D, 0, "clears it");
    trap = TRAP_OF(MAY_FAULT("movl %k1, (%0)")::"r"(pte), "r"(0) : "memory");
    check_equal(trap.kind, KIND_NONE, "a write of its lower half");
    check_equal(*pte & 0xffffffff, 0, "changes that");
    check_equal(*pte >> 32, entry_a >> 32, "and only that");
    trap = TRAP_OF(MAY_FAULT("movq $0, (%0)")::"r"(pte) : "memory");
    check_equal(trap.kind, KIND_NONE, "clear the entry");
    flush();
    check_trap(TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(window) : "rax", "memory"), VECTOR_PF, 0, "unmapped");

    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(pte), "r"(make_pte(virt_to_mfn(a), PTE_DATA | PTE_PCD)) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "a bad entry gives the fault back to the guest");
    check_equal(*pte, 0, "and writes nothing");
    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(pte), "r"(make_pte(0xffffffffff, PTE_DATA)) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "a frame that does not exist, likewise");
    trap = TRAP_OF(MAY_FAULT("movq $0, (%0)")::"r"(pte_of((unsigned long)window, 2)) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "an L2 entry can't be written directly");
    trap = TRAP_OF(MAY_FAULT("movq $0, (%0)")::"r"(pte_of(UNMAPPED, 4)) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "nor an L4 entry");
    check_equal(hypercall_vm_assist(VMASST_CMD_disable, VMASST_TYPE_writable_pagetables), 0, "disable writable_pagetables");
    trap = TRAP_OF(MAY_FAULT("movq %1, (%0)")::"r"(pte), "r"(entry_a) : "memory");
    check_trap(trap, VECTOR_PF, PF_PRESENT | PF_WRITE, "a fault again");
}
