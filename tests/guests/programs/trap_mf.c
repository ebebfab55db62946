/* #MF: an unmasked x87 exception is reported at the next waiting instruction. */
#include "guest.h"

PROGRAM(trap_mf)
{
    struct trap_record trap;
    u16 control = 0x037b; /* division by zero unmasked */
    extern char at_fwait[];

    asm volatile("fninit; fldcw %0; fld1; fldz; fdivrp" ::"m"(control));
    trap = TRAP_OF(".globl at_fwait\nat_fwait:\n" MAY_FAULT("fwait")::: "memory");
    check_trap(trap, VECTOR_MF, 0, "x87 division by zero");
    check_equal(trap.registers.rip, (u64)at_fwait, "RIP at the waiting instruction");
    asm volatile("fninit");
}
