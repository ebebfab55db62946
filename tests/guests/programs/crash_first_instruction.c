/* @expect crash
 * @silent
 * The very first instruction is undefined, and there is no trap table yet. */
#include "guest.h"

asm(".pushsection .text.boot, \"ax\"\n"
    ".globl guest_entry\n"
    "guest_entry: ud2\n"
    ".popsection");

PROGRAM(crash_first_instruction)
{
}
