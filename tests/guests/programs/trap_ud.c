/* #UD: undefined instructions and those that need what the guest does not have. */
#include "guest.h"

PROGRAM(trap_ud)
{
    struct trap_record trap;
    extern char here[];

    trap = TRAP_OF(".globl here\nhere:\n" MAY_FAULT("ud2")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "ud2");
    check_equal(trap.registers.rip, (u64)here, "RIP is that of the instruction");
    check_equal(trap.registers.cs, FLAT_KERNEL_CS & ~3, "CS shows kernel context (RPL 0)");
    check_equal(trap.registers.ss, FLAT_KERNEL_SS, "SS");
    check_equal(trap.registers.rflags & ~X86_EFLAGS_ARITHMETIC & ~X86_EFLAGS_RF, X86_EFLAGS_MBS, "RFLAGS without IF, as upcalls are masked");
    check_equal(trap.registers.saved_upcall_mask, 1, "the saved upcall mask is 1");
    check_equal(trap.upcall_mask, 1, "the handler runs with it");
    check_equal(trap.registers.rsp & 7, 0, "RSP is the interrupted one");
    trap = TRAP_OF(MAY_FAULT(".byte 0x0f, 0xff, 0xc0")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "ud0");
    trap = TRAP_OF(MAY_FAULT(".byte 0x0f, 0xb9, 0xc0")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "ud1");
    trap = TRAP_OF(MAY_FAULT(".byte 0x0f, 0x04")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "opcode 0f 04");
    trap = TRAP_OF(MAY_FAULT(".byte 0x06")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "push %%es in 64-bit mode");
    trap = TRAP_OF(MAY_FAULT(".byte 0xce")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "into in 64-bit mode");
    trap = TRAP_OF(MAY_FAULT(".byte 0xf0, 0x90")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "lock nop");
    trap = TRAP_OF(MAY_FAULT("vmmcall")::: "memory");
    check_trap(trap, VECTOR_UD, 0, "vmmcall");
    events_enable();
    trap = TRAP_OF(MAY_FAULT("ud2")::: "memory");
    check_equal(trap.registers.rflags & X86_EFLAGS_IF, X86_EFLAGS_IF, "with upcalls on, the frame has IF");
    check_equal(trap.registers.saved_upcall_mask, 0, "and the saved mask is 0");
    check_equal(trap.upcall_mask, 0, "a gate without the mask flag leaves upcalls on");
}
