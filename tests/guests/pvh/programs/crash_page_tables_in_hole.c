/* @modes 64 pae 32
 * @expect crash
 * CR3 names page tables where there is no memory. */
#include "guest.h"

PROGRAM(crash_page_tables_in_hole)
{
    write_cr3(FREE_HOLE);
    asm volatile("nop");
}
