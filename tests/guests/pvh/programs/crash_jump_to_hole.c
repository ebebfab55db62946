/* @modes 64 pae 32
 * @expect crash
 * A jump to where there is no memory. */
#include "guest.h"

PROGRAM(crash_jump_to_hole)
{
    ((void (*)(void))FREE_HOLE)();
}
