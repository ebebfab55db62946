/* @modes 64 32
 * @expect crash
 * shared_info is put over the guest's own page tables, which then map nothing. */
#include "guest.h"

PROGRAM(crash_shared_info_over_page_tables)
{
    physmap_add(XENMAPSPACE_shared_info, 0, read_cr3() >> 12);
    flush_tlb();
    asm volatile("nop");
}
