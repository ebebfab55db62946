/* Software interrupts from user mode: DPL 3 gates only. */
#include "guest.h"

USER_CODE(int80, "mov $0x42, %eax\n int $0x80\n nop");
USER_CODE(int81, "int $0x81");
USER_CODE(breakpoint, "int3\n nop");
USER_CODE(int14, "int $14");

PROGRAM(int80_user)
{
    struct trap_record trap;

    user_init();
    trap = user_run_code(int80);
    check_trap(trap, VECTOR_GP, 0x80 << 3 | 2, "int $0x80 without a gate");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 5, "RIP at it");
    trap_table_install(0x80, 3);
    trap = user_run_code(int80);
    check_trap(trap, 0x80, 0, "int $0x80, gate of DPL 3");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 7, "RIP past it");
    check_equal(trap.registers.rax, 0x42, "RAX");
    check_equal(trap.registers.cs, FLAT_USER_CS64, "CS");
    trap_table_install(0x81, 1);
    trap = user_run_code(int81);
    check_trap(trap, VECTOR_GP, 0x81 << 3 | 2, "int $0x81, gate of DPL 1");
    trap_table_install(0x81, 3);
    trap = user_run_code(int81);
    check_trap(trap, 0x81, 0, "int $0x81, gate of DPL 3");
    trap_table_install(0x80, 3 | 4);
    trap = user_run_code(int80);
    check_equal(trap.upcall_mask, 1, "the mask flag of gate 0x80");
    trap = user_run_code(breakpoint);
    check_trap(trap, VECTOR_BP, 0, "int3");
    check_equal(trap.registers.rip, USER_CODE_ADDRESS + 1, "RIP past it");
    trap = user_run_code(int14);
    check_trap(trap, VECTOR_GP, 14 << 3 | 2, "int $14");
}
