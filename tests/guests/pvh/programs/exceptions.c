/* @modes 64 pae 32
 * Exceptions through the guest's own IDT: error codes, CR2, the frame, the IDT's rights, a fault in user mode. */
#include "guest.h"

extern const char user_fault[], user_int3[], user_int80[], user_privileged[];
asm(".text\n"
    "user_fault: movl $0, 8\n ud2\n"
    "user_int3: int3\n ud2\n"
    "user_int80: int $0x80\n ud2\n"
    "user_privileged: cli\n ud2\n");

static struct registers in_user_mode(const void *code)
{
    struct registers user;

    user_prepare(&user, code);
    user_run(&user);
    return user;
}

PROGRAM(exceptions)
{
    struct trap_record trap;
    struct registers user;

    check_trap(TRAP_OF(MAY_FAULT("ud2")), VECTOR_UD, 0, "ud2");
    trap = TRAP_OF("xor %%edx, %%edx; xor %%ecx, %%ecx\n" MAY_FAULT("div %%ecx")::: "eax", "ecx", "edx");
    check_trap(trap, VECTOR_DE, 0, "division by zero");
    check_equal(trap.registers.cs, KERNEL_CS, "CS of the frame");
    trap_expect(VECTOR_BP);
    check_trap(TRAP_OF("int3"), VECTOR_BP, 0, "int3");
    trap = TRAP_OF(MAY_FAULT("mov %w0, %%ds")::"r"(0xf8));
    check_trap(trap, VECTOR_GP, 0xf8, "a selector beyond nothing: of an empty descriptor");
    trap = TRAP_OF(MAY_FAULT("mov %w0, %%ds")::"r"(0x7f8));
    check_trap(trap, VECTOR_GP, 0x7f8, "a selector beyond the GDT");
#ifndef __x86_64__ /* 64-bit code may have one */
    trap = TRAP_OF(MAY_FAULT("mov %w0, %%ss")::"r"(0));
    check_trap(trap, VECTOR_GP, 0, "a null selector for SS");
#endif
    trap_expect(0x30);
    trap = TRAP_OF("int $0x30");
    check_equal(trap.kind, 0x30, "int n from ring 0");
    gate_set(0x31, gates[0x31], KERNEL_CS, 0x0e, 0);
    check_trap(TRAP_OF(MAY_FAULT("int $0x31")), VECTOR_NP, 0x31 * 8 + 2, "a gate that is not present");

    write_cr0(read_cr0() | CR0_TS);
    check_trap(TRAP_OF(MAY_FAULT("fninit")), VECTOR_NM, 0, "the FPU with CR0.TS");
    write_cr0(read_cr0() & ~CR0_TS);

    user = in_user_mode(user_int3);
    check_equal(user.vector, VECTOR_BP, "int3 in user mode");
    check_equal(user.ip, (unsigned long)user_int3 + 1, "IP past it");
    check_equal(user.cs, USER_CS, "CS of user mode");
    check_equal(user.ss, USER_DS, "SS of user mode");
    user = in_user_mode(user_int80);
    check_equal(user.vector, VECTOR_GP, "int 0x80 through a gate of DPL 0");
    check_equal(user.error, 0x80 * 8 + 2, "error code: the gate");
    gate_set(0x80, gates[0x80], KERNEL_CS, 0xee, 0);
    user = in_user_mode(user_int80);
    check_equal(user.vector, 0x80, "int 0x80 through a gate of DPL 3");
    check_equal(user.ip, (unsigned long)user_int80 + 2, "IP past it");
    user = in_user_mode(user_privileged);
    check_equal(user.vector, VECTOR_GP, "cli in user mode");
    check_equal(user.error, 0, "error code");
    user = in_user_mode(user_fault);
    check_equal(user.vector, VECTOR_UD, "user mode may write to page 0, and gets to its end");
}
