#include "paging.h"

#include "check.h"
#include "hypercall.h"
#include "start.h"

#define POOL_PAGES 96

static u8 pool[POOL_PAGES][PAGE_SIZE] page_aligned;
static unsigned pool_used;

unsigned long pfn_to_mfn(unsigned long pfn)
{
    return ((unsigned long *)start_info->mfn_list)[pfn];
}

unsigned long mfn_to_pfn(unsigned long mfn)
{
    return machine_to_phys_mapping[mfn];
}

unsigned long virt_to_mfn(const volatile void *address)
{
    return pfn_to_mfn(((unsigned long)address - VIRT_BASE) >> 12);
}

void *mfn_to_virt(unsigned long mfn)
{
    return (void *)(VIRT_BASE + (mfn_to_pfn(mfn) << 12));
}

void *page_alloc(void)
{
    if (pool_used == POOL_PAGES) {
        check(false, "the program needs more than %d pages", POOL_PAGES);
        finish();
    }
    return pool[pool_used++];
}

u64 *pte_of(unsigned long address, int level)
{
    u64 *table = (u64 *)start_info->pt_base;

    for (int at = 4;; at--) {
        u64 *entry = &table[(address >> (12 + 9 * (at - 1))) & 511];

        if (at == level)
            return entry;
        if (!(*entry & PTE_P))
            return NULL;
        table = mfn_to_virt((*entry & PTE_FRAME) >> 12);
    }
}

u64 pte_machine_address(const u64 *pte)
{
    return ((u64)virt_to_mfn(pte) << 12) | ((unsigned long)pte & (PAGE_SIZE - 1));
}

long pte_write(u64 *pte, u64 value)
{
    struct mmu_update request = {.ptr = pte_machine_address(pte) | MMU_NORMAL_PT_UPDATE, .val = value};

    return hypercall_mmu_update(&request, 1, NULL, DOMID_SELF);
}

long map_frame(void *address, unsigned long mfn, u64 flags)
{
    return hypercall_update_va_mapping((unsigned long)address, make_pte(mfn, flags), UVMF_TLB_FLUSH | UVMF_ALL);
}

long map_page(void *address, const void *page, u64 flags)
{
    return map_frame(address, virt_to_mfn(page), flags);
}

void *table_alloc(void)
{
    void *page = page_alloc();

    if (map_page(page, page, PTE_READ_ONLY))
        check(false, "map a page read-only to make it a page table");
    return page;
}

void map_anywhere(unsigned long address, unsigned long mfn, u64 flags)
{
    for (int level = 4; level > 1; level--) {
        u64 *entry = pte_of(address, level);

        if (!(*entry & PTE_P) && pte_write(entry, make_pte(virt_to_mfn(table_alloc()), PTE_TABLE)))
            check(false, "link a level %d page table", level - 1);
    }
    if (pte_write(pte_of(address, 1), make_pte(mfn, flags)))
        check(false, "map mfn 0x%lx at 0x%lx", mfn, address);
    mmuext(MMUEXT_INVLPG_LOCAL, address, 0);
}

long mmuext(unsigned command, unsigned long argument1, unsigned long argument2)
{
    struct mmuext_op operation = {.cmd = command};

    operation.arg1.mfn = argument1;
    operation.arg2.src_mfn = argument2;
    return hypercall_mmuext_op(&operation, 1, NULL, DOMID_SELF);
}
