/* Frames, page tables, and pages to play with. */
#pragma once

#include "types.h"

#define VIRT_BASE 0xffffffff80000000UL

#define PTE_P 0x001UL
#define PTE_RW 0x002UL
#define PTE_US 0x004UL
#define PTE_PWT 0x008UL
#define PTE_PCD 0x010UL
#define PTE_A 0x020UL
#define PTE_D 0x040UL
#define PTE_PSE 0x080UL
#define PTE_G 0x100UL
#define PTE_AVAIL 0x200UL
#define PTE_NX 0x8000000000000000UL
#define PTE_FRAME 0x000ffffffffff000UL

#define PTE_DATA (PTE_P | PTE_RW | PTE_A | PTE_D | PTE_NX)
#define PTE_READ_ONLY (PTE_P | PTE_A | PTE_D | PTE_NX)
#define PTE_CODE (PTE_P | PTE_A | PTE_D)
#define PTE_TABLE (PTE_P | PTE_RW | PTE_US | PTE_A | PTE_D)

/* The p2m list and the initial mapping that start_info describes, and Xen's M2P. */
unsigned long pfn_to_mfn(unsigned long pfn);
unsigned long mfn_to_pfn(unsigned long mfn);
unsigned long virt_to_mfn(const volatile void *address); /* of an address in the initial mapping */
void *mfn_to_virt(unsigned long mfn);

static inline u64 make_pte(unsigned long mfn, u64 flags)
{
    return ((u64)mfn << 12) | flags;
}

/* A zeroed page of the program's own, in the initial mapping (never freed). */
void *page_alloc(void);

/* The entry of level `level` (1..4) that translates an address in the kernel's page tables; NULL if a table above is missing. */
u64 *pte_of(unsigned long address, int level);
u64 pte_machine_address(const u64 *pte);

/* One entry by HYPERVISOR_mmu_update. -> Xen's answer. */
long pte_write(u64 *pte, u64 value);

/* Change the mapping of an address whose tables exist, by HYPERVISOR_update_va_mapping with a TLB flush. */
long map_frame(void *address, unsigned long mfn, u64 flags);
long map_page(void *address, const void *page, u64 flags);

/* Turn a zeroed page into a page-table page: map it read-only, so that Xen will accept it. */
void *table_alloc(void);

/* Map at any address, making the missing tables. User tables: see user.h. */
void map_anywhere(unsigned long address, unsigned long mfn, u64 flags);

/* mmuext_op with one operation. */
long mmuext(unsigned command, unsigned long argument1, unsigned long argument2);
