/* #XM: an unmasked SSE exception is reported at the instruction. */
#include "guest.h"

PROGRAM(trap_xm)
{
    struct trap_record trap;
    u32 mxcsr = 0x1d80; /* division by zero unmasked */
    float one = 1.0f, zero = 0.0f;

    asm volatile("ldmxcsr %0; movss %1, %%xmm0" ::"m"(mxcsr), "m"(one));
    trap = TRAP_OF(MAY_FAULT("divss %0, %%xmm0")::"m"(zero) : "memory");
    check_trap(trap, VECTOR_XM, 0, "SSE division by zero");
    trap = TRAP_OF(MAY_FAULT("ldmxcsr %0")::"m"((u32){0xffffffff}) : "memory");
    check_trap(trap, VECTOR_GP, 0, "reserved bits of MXCSR");
}
