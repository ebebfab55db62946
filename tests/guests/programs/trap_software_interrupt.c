/* int3 and int n: the gate's DPL decides, an unprivileged one gives #GP with the IDT error code at the instruction. */
#include "guest.h"

#define IDT_ERROR(vector) ((vector) << 3 | 2)

PROGRAM(trap_software_interrupt)
{
    struct trap_record trap;
    extern char past_int3[], past_int_21[], at_int_22[];

    trap_expect(VECTOR_BP);
    trap = TRAP_OF("int3\n.globl past_int3\npast_int3:" ::: "memory");
    check_trap(trap, VECTOR_BP, 0, "int3");
    check_equal(trap.registers.rip, (u64)past_int3, "RIP is past it");
    trap = TRAP_OF(".byte 0xcd, 3" ::: "memory");
    check_trap(trap, VECTOR_BP, 0, "int $3");
    trap_expect(VECTOR_OF);
    trap = TRAP_OF(".byte 0xcd, 4" ::: "memory");
    check_trap(trap, VECTOR_OF, 0, "int $4");

    trap_expect(0x21);
    trap_table_install(0x21, 3);
    trap = TRAP_OF("int $0x21\n.globl past_int_21\npast_int_21:" ::: "memory");
    check_trap(trap, 0x21, 0, "int $0x21, gate of DPL 3");
    check_equal(trap.registers.rip, (u64)past_int_21, "RIP is past it");
    trap_table_install(0x21, 1);
    trap = TRAP_OF("int $0x21" ::: "memory");
    check_trap(trap, 0x21, 0, "int $0x21, gate of DPL 1 (the kernel may)");
    trap_table_install(0x22, 0);
    trap = TRAP_OF(".globl at_int_22\nat_int_22:\n" MAY_FAULT("int $0x22")::: "memory");
    check_trap(trap, VECTOR_GP, IDT_ERROR(0x22), "int $0x22, gate of DPL 0 (nobody may)");
    check_equal(trap.registers.rip, (u64)at_int_22, "RIP is at it");
    trap = TRAP_OF(MAY_FAULT("int $0x23")::: "memory");
    check_trap(trap, VECTOR_GP, IDT_ERROR(0x23), "int $0x23, no gate");
    trap = TRAP_OF(MAY_FAULT("int $13")::: "memory");
    check_trap(trap, VECTOR_GP, IDT_ERROR(13), "int $13, gate of DPL 0");
    trap = TRAP_OF(MAY_FAULT("int $14")::: "memory");
    check_trap(trap, VECTOR_GP, IDT_ERROR(14), "int $14, gate of DPL 0");

    trap_table_install(0x80, 3);
    trap_expect(0x80);
    trap = TRAP_OF("int $0x80" ::: "memory");
    check_trap(trap, 0x80, 0, "int $0x80, gate of DPL 3");
    trap_table_install(0xff, 3);
    trap_expect(0xff);
    trap = TRAP_OF("int $0xff" ::: "memory");
    check_trap(trap, 0xff, 0, "int $0xff, gate of DPL 3");
}
