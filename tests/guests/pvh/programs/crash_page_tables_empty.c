/* @modes 64 32
 * @expect crash
 * CR3 names a page of zeros: nothing is mapped, not even the handlers of that. */
#include "guest.h"

PROGRAM(crash_page_tables_empty)
{
    write_cr3((unsigned long)page_alloc());
    asm volatile("nop");
}
