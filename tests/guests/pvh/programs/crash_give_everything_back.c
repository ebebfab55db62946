/* @modes 64 pae 32
 * @expect crash
 * The guest gives all its memory back, itself included. */
#include "guest.h"

PROGRAM(crash_give_everything_back)
{
    for (unsigned long gfn = 0x800; gfn-- > 0;)
        physmap_decrease(gfn);
}
