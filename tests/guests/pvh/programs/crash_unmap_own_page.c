/* @modes 64 pae 32
 * @expect crash
 * The guest takes the page that it runs on out of its physical memory. */
#include "guest.h"

PROGRAM(crash_unmap_own_page)
{
    physmap_remove(gfn_of(__builtin_return_address(0)));
    physmap_remove(gfn_of(program));
    physmap_remove(gfn_of(physmap_remove));
}
