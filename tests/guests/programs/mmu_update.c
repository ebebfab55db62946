/* HYPERVISOR_mmu_update: entries of every level, A/D preservation, batches and what is refused. */
#include "guest.h"

static u8 window[2 * PAGE_SIZE] page_aligned;

static void check_normal(void)
{
    u64 *page = page_alloc(), *other = page_alloc();
    u64 *pte = pte_of((unsigned long)window, 1);
    u64 before = *pte;
    struct mmu_update batch[3] = {
        {.ptr = pte_machine_address(pte), .val = make_pte(virt_to_mfn(page), PTE_DATA)},
        {.ptr = pte_machine_address(pte), .val = make_pte(virt_to_mfn(other), PTE_DATA)},
        {.ptr = pte_machine_address(pte), .val = make_pte(virt_to_mfn(page), PTE_READ_ONLY)},
    };
    unsigned done = 99;

    *page = 0x1111;
    *other = 0x2222;
    check_equal(hypercall_mmu_update(batch, 1, &done, DOMID_SELF), 0, "one update");
    check_equal(done, 1, "one done");
    mmuext(MMUEXT_INVLPG_LOCAL, (unsigned long)window, 0);
    check_equal(*(volatile u64 *)window, 0x1111, "the page is there");
    check_equal((*pte & PTE_FRAME) >> 12, virt_to_mfn(page), "the entry can be read");
    check_equal(hypercall_mmu_update(batch, 3, &done, DOMID_SELF), 0, "three updates");
    check_equal(done, 3, "three done");
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    check_equal(*(volatile u64 *)window, 0x1111, "the last one counts");
    check_trap(TRAP_OF(MAY_FAULT("movb $1, (%0)")::"r"(window) : "memory"), VECTOR_PF, PF_PRESENT | PF_WRITE, "read-only now");
    batch[1].ptr = 0x000ffffffffff000UL;
    check_equal(hypercall_mmu_update(batch, 3, &done, DOMID_SELF), -XEN_EINVAL, "a batch with an entry in a frame that does not exist");
    check_equal(done, 1, "stops there");
    check_equal(hypercall_mmu_update(NULL, 0, &done, DOMID_SELF), 0, "an empty batch");
    check_equal(done, 0, "none done");
    check_equal(pte_write(pte, before), 0, "put the old entry back");
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
}

static void check_preserve_ad(void)
{
    u64 *page = page_alloc();
    u64 *pte = pte_of((unsigned long)window, 1);
    struct mmu_update update = {.ptr = pte_machine_address(pte) | MMU_PT_UPDATE_PRESERVE_AD,
                                .val = make_pte(virt_to_mfn(page), PTE_P | PTE_RW | PTE_NX)};

    pte_write(pte, make_pte(virt_to_mfn(page), PTE_DATA));
    check_equal(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF), 0, "MMU_PT_UPDATE_PRESERVE_AD");
    check_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D, "keeps A and D");
    update.ptr = pte_machine_address(pte) | MMU_NORMAL_PT_UPDATE;
    check_equal(hypercall_mmu_update(&update, 1, NULL, DOMID_SELF), 0, "MMU_NORMAL_PT_UPDATE");
    check_equal(*pte & (PTE_A | PTE_D), 0, "does not");
    mmuext(MMUEXT_INVLPG_LOCAL, (unsigned long)window, 0);
    (void)*(volatile u8 *)window;
    check_equal(*pte & (PTE_A | PTE_D), PTE_A, "a read sets A");
    *(volatile u8 *)window = 1;
    check_equal(*pte & (PTE_A | PTE_D), PTE_A | PTE_D, "a write sets D");
}

static void check_refused(void)
{
    u64 *page = page_alloc();
    u64 *pte = pte_of((unsigned long)window + PAGE_SIZE, 1);
    unsigned long mfn = virt_to_mfn(page);
    static const struct {
        u64 bits;
        const char *what;
    } bits[] = {
        {PTE_PSE, "PAT"}, {PTE_PWT, "PWT"}, {PTE_PCD, "PCD"},
    };
    struct mmu_update foreign = {.ptr = pte_machine_address(pte), .val = make_pte(mfn, PTE_DATA)};

    check_equal(pte_write(pte, make_pte(mfn, PTE_DATA | PTE_AVAIL)), 0, "bit 9 is the guest's");
    check_equal(*pte & PTE_AVAIL, PTE_AVAIL, "and kept");
    check_equal(pte_write(pte, make_pte(mfn, PTE_DATA | 1UL << 58)), 0, "bit 58 too");
    check(*pte & (1UL << 58), "and kept");
    for (size_t i = 0; i < ARRAY_SIZE(bits); i++)
        check(pte_write(pte, make_pte(mfn, PTE_DATA | bits[i].bits)) == -XEN_EINVAL, "a present entry with %s", bits[i].what);
    check_equal(pte_write(pte, 0x8000000000000000UL | PTE_PSE | PTE_FRAME), 0, "a non-present entry may hold anything");
    check_equal(*pte, 0x8000000000000000UL | PTE_PSE | PTE_FRAME, "and keeps it");
    check(pte_write(pte, make_pte(0xffffffffff, PTE_DATA)) < 0, "a frame that does not exist");
    check(pte_write(pte, make_pte(start_info->shared_info >> 12, PTE_DATA)) == 0, "shared_info may be mapped");
    check_equal(pte_write(pte, 0), 0, "unmap");
    check_equal(hypercall_mmu_update(&foreign, 1, NULL, 0), -XEN_EPERM, "on behalf of domain 0");
    check_equal(hypercall_mmu_update(&foreign, 1, NULL, 0x7000), -XEN_ESRCH, "on behalf of no domain");
}

static void check_upper_levels(void)
{
    u64 *l1 = table_alloc(), *l2 = table_alloc(), *page = page_alloc();
    unsigned long va = 0x200000000000 - (1UL << 30); /* nothing is there */
    u64 *l4e = pte_of(va, 4);

    *page = 0x3333;
    check_equal(pte_write(&l1[0], make_pte(virt_to_mfn(page), PTE_DATA)), 0, "fill an L1 that is not in use yet");
    map_anywhere(va, virt_to_mfn(page), PTE_DATA);
    check_equal(*(volatile u64 *)va, 0x3333, "tables of all levels by mmu_update");
    u64 *l2e = pte_of(va, 2);
    u64 old = *l2e;

    check_equal(pte_write(l2e, make_pte(virt_to_mfn(l1), PTE_TABLE)), 0, "another L1 in its place");
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    check_equal(*(volatile u64 *)va, 0x3333, "works");
    check_equal(pte_write(l2e, make_pte(virt_to_mfn(page), PTE_TABLE | PTE_PSE)), -XEN_EINVAL, "a superpage");
    check_equal(pte_write(l2e, old), 0, "the first L1 again");
    check_equal(pte_write(pte_of(va, 3), make_pte(virt_to_mfn(l2), PTE_TABLE)), 0, "an empty L2");
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    check_trap(TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(va) : "rax", "memory"), VECTOR_PF, 0, "nothing is mapped now");
    check_equal(pte_write(l4e, 0), 0, "remove the whole tree");
    check(pte_write(pte_of(HYPERVISOR_VIRT_START, 4), 0) < 0, "Xen's own L4 slots can't be changed");
}

PROGRAM(mmu_update)
{
    check_normal();
    check_preserve_ad();
    check_refused();
    check_upper_levels();
}
