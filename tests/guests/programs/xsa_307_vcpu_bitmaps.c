/* XSA-307: find_next_bit() read beyond bitmaps and looped. vCPU bitmaps of MMUEXT_*_MULTI and update_va_mapping with more bits than vCPUs, at the end of
 * what is mapped, and nowhere. */
#include "guest.h"

PROGRAM(xsa_307_vcpu_bitmaps)
{
    u64 *page = page_alloc(), *last = (u64 *)((u8 *)page + PAGE_SIZE - 8);
    u8 *next = page_alloc();
    unsigned long entry = make_pte(virt_to_mfn(page), PTE_DATA);

    map_page(next, next, 0);
    memset(page, 0xff, PAGE_SIZE);
    check_equal(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)page), 0, "XSA-307: all bits set");
    check_equal(mmuext(MMUEXT_INVLPG_MULTI, (u64)page, (u64)last), 0, "XSA-307: at the end of a page");
    check(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)page + PAGE_SIZE - 1) <= 0, "XSA-307: its last octet");
    *page = 0;
    check_equal(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)page), 0, "XSA-307: no bit set");
    *page = ~1UL;
    check_equal(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, (u64)page), 0, "XSA-307: only vCPUs that do not exist");
    check(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, UNMAPPED) <= 0, "XSA-307: a bitmap nowhere");
    check(mmuext(MMUEXT_TLB_FLUSH_MULTI, 0, XEN_PRIVATE) <= 0, "XSA-307: a bitmap in Xen's memory");
    check(hypercall_update_va_mapping((u64)page, entry, UVMF_TLB_FLUSH | XEN_PRIVATE) <= 0, "XSA-307: update_va_mapping with one there");
    check(hypercall_update_va_mapping((u64)page, entry, UVMF_INVLPG | UNMAPPED) <= 0, "XSA-307: update_va_mapping with one nowhere");
    check_equal(hypercall_update_va_mapping((u64)page, entry, UVMF_INVLPG | UVMF_MULTI | (u64)page), 0, "XSA-307: and a proper one");
}
