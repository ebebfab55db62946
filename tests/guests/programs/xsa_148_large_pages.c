/* XSA-148: a PV guest could set PSE in an L2 entry that it already had. XSA-182: the same by the fast path of L3 and L4 entries.
 * XSA-167: superpage operations (MMUEXT_MARK_SUPER) checked too little. XSA-176: Xen's own walk took PSE in an L4 entry as valid.
 * XSA-345: concurrent changes of large mappings. XSA-402: cacheability bits let a guest have non-coherent mappings. */
#include "guest.h"

#define TEST_VA (0x200000000000UL - (1UL << 30))

PROGRAM(xsa_148_large_pages)
{
    u64 *page = page_alloc();
    static const char *const names[] = {"", "L1", "L2", "L3", "L4"};

    map_anywhere(TEST_VA, virt_to_mfn(page), PTE_DATA);
    for (int level = 2; level <= 4; level++) {
        u64 *entry = pte_of(TEST_VA, level), old = *entry;
        struct mmu_update preserve = {.ptr = pte_machine_address(entry) | MMU_PT_UPDATE_PRESERVE_AD, .val = old | PTE_PSE};
        static const u64 bits[] = {PTE_PSE, PTE_PWT, PTE_PCD, PTE_G, PTE_PSE | PTE_PWT | PTE_PCD};

        check_equal(pte_write(entry, old | PTE_PSE), -XEN_EINVAL, "XSA-148: PSE in the same entry");
        check_equal(hypercall_mmu_update(&preserve, 1, NULL, DOMID_SELF), -XEN_EINVAL, "XSA-182: PSE with PRESERVE_AD");
        check_equal(pte_write(entry, (old & ~PTE_RW) | PTE_PSE), -XEN_EINVAL, "XSA-182: PSE with other permissions");
        for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
            check(pte_write(entry, old | bits[i]) < 0, "XSA-402: %s entry with flags 0x%lx", names[level], bits[i]);
        check_equal(pte_write(entry, (old & ~(PTE_A | PTE_D | PTE_RW))), 0, "XSA-182: harmless flags by the fast path");
        check_equal(pte_write(entry, old), 0, "and back");
        check_equal(*entry & (PTE_PSE | PTE_PWT | PTE_PCD), 0, "XSA-176: nothing of it is in the table");
    }
    for (u64 flags = PTE_PWT; flags <= (PTE_PWT | PTE_PCD | PTE_PSE); flags += PTE_PWT)
        if (flags & (PTE_PWT | PTE_PCD | PTE_PSE) && !(flags & ~(PTE_PWT | PTE_PCD | PTE_PSE)))
            check(pte_write(pte_of(TEST_VA, 1), make_pte(virt_to_mfn(page), PTE_DATA | flags)) < 0, "XSA-402: L1 entry with flags 0x%lx", flags);
    check_equal(mmuext(MMUEXT_MARK_SUPER, virt_to_mfn(page) & ~511UL, 0), -XEN_EOPNOTSUPP, "XSA-167: MARK_SUPER");
    check_equal(mmuext(MMUEXT_UNMARK_SUPER, virt_to_mfn(page) & ~511UL, 0), -XEN_EOPNOTSUPP, "XSA-167: UNMARK_SUPER");
    check_equal(mmuext(MMUEXT_FLUSH_CACHE, 0, 0), -XEN_EACCES, "XSA-402: FLUSH_CACHE without hardware");
}
