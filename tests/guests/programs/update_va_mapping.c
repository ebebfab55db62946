/* HYPERVISOR_update_va_mapping with every kind of flush. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

static void check_flush(unsigned long flags, const char *name)
{
    static u64 generation = 0x1000;
    u64 *page = page_alloc();

    *page = ++generation;
    (void)*(volatile u64 *)window; /* have the old translation in the TLB */
    check(hypercall_update_va_mapping((unsigned long)window, make_pte(virt_to_mfn(page), PTE_DATA), flags) == 0, "%s", name);
    check(*(volatile u64 *)window == generation, "%s: the new page is seen", name);
}

PROGRAM(update_va_mapping)
{
    u64 *page = page_alloc();
    unsigned long everybody = ~0UL;

    check_flush(UVMF_INVLPG | UVMF_LOCAL, "UVMF_INVLPG | UVMF_LOCAL");
    check_flush(UVMF_TLB_FLUSH | UVMF_LOCAL, "UVMF_TLB_FLUSH | UVMF_LOCAL");
    check_flush(UVMF_INVLPG | UVMF_ALL, "UVMF_INVLPG | UVMF_ALL");
    check_flush(UVMF_TLB_FLUSH | UVMF_ALL, "UVMF_TLB_FLUSH | UVMF_ALL");
    static unsigned long mask __attribute__((aligned(8)));

    mask = everybody;
    check_flush((unsigned long)&mask | UVMF_INVLPG | UVMF_MULTI, "UVMF_INVLPG with a bitmap");
    check_flush((unsigned long)&mask | UVMF_TLB_FLUSH | UVMF_MULTI, "UVMF_TLB_FLUSH with a bitmap");

    check_equal(hypercall_update_va_mapping((unsigned long)window, 0, UVMF_INVLPG | UVMF_LOCAL), 0, "unmap");
    check_trap(TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(window) : "rax", "memory"), VECTOR_PF, 0, "gone");
    check_equal(hypercall_update_va_mapping((unsigned long)window, make_pte(virt_to_mfn(page), PTE_DATA), UVMF_NONE), 0,
                "a new mapping without a flush");
    *(volatile u64 *)window = 5;
    check_equal(*(volatile u64 *)page, 5, "works, as nothing was cached");
    check_equal(hypercall_update_va_mapping(UNMAPPED, make_pte(virt_to_mfn(page), PTE_DATA), 0), -XEN_EINVAL, "an address without tables");
    check_equal(hypercall_update_va_mapping(NON_CANONICAL, make_pte(virt_to_mfn(page), PTE_DATA), 0), -XEN_EINVAL, "a non-canonical address");
    check_equal(hypercall_update_va_mapping(XEN_PRIVATE, make_pte(virt_to_mfn(page), PTE_DATA), 0), -XEN_EINVAL, "an address of Xen");
    check_equal(hypercall_update_va_mapping((unsigned long)window, make_pte(virt_to_mfn(page), PTE_DATA | PTE_PCD), 0), -XEN_EINVAL,
                "a forbidden bit");
    check(HYPERCALL(update_va_mapping_otherdomain, window, 0, 0, 0) < 0, "update_va_mapping_otherdomain for domain 0");
}
