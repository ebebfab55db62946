/* #DE: division by zero and quotients that do not fit. */
#include "guest.h"

PROGRAM(trap_de)
{
    struct trap_record trap;
    extern char at_div[];

    trap = TRAP_OF(".globl at_div\nat_div:\n" MAY_FAULT("divl %0")::"r"(0), "a"(1), "d"(0) : "memory");
    check_trap(trap, VECTOR_DE, 0, "division by zero");
    check_equal(trap.registers.rip, (u64)at_div, "RIP at it");
    trap = TRAP_OF(MAY_FAULT("divl %0")::"r"(1), "a"(0), "d"(2) : "memory");
    check_trap(trap, VECTOR_DE, 0, "quotient too large");
    trap = TRAP_OF(MAY_FAULT("idivq %0")::"r"(-1L), "a"(0UL), "d"(1UL << 63) : "memory");
    check_trap(trap, VECTOR_DE, 0, "signed overflow");
    trap = TRAP_OF(MAY_FAULT("idivl %0")::"r"(-1), "a"(0x80000000), "d"(-1) : "memory");
    check_trap(trap, VECTOR_DE, 0, "INT_MIN / -1");
}
