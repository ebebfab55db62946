/* 32-bit user space of a 64-bit kernel: FLAT_USER_CS32, int $0x80, exceptions, `syscall` and `sysenter`. */
#include "guest.h"

USER_CODE(int80, ".code32\n mov $0x11223344, %eax\n push %eax\n pop %ebx\n mov %cs, %ecx\n xor %edx, %edx\n dec %edx\n int $0x80");
USER_CODE(fault, ".code32\n mov $0xe02b, %eax\n mov %eax, %ds\n mov 0x500000, %eax");
USER_CODE(fast, ".code32\n mov $7, %eax\n syscall\n nop");
USER_CODE(enter, ".code32\n mov $9, %eax\n sysenter\n nop");

#define FAST_AT (USER_CODE_ADDRESS + 5)

static struct registers registers32(void)
{
    struct registers registers = user_registers();

    registers.cs = FLAT_USER_CS32;
    registers.ss = FLAT_USER_SS32;
    return registers;
}

static bool intel(void)
{
    u32 eax = 0, ebx, ecx = 0, edx;

    asm volatile(XEN_EMULATE_PREFIX "cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return ebx == 0x756e6547;
}

static void check_syscall32(void)
{
    struct trap_record trap;

    check_equal(callback_register(CALLBACKTYPE_syscall32, CALLBACKF_mask_events, entry_syscall32), 0, "register syscall32");
    trap = user_run(fast, fast_end, registers32());
    if (trap.kind == VECTOR_UD) {
        check(intel(), "syscall in compatibility mode is #UD on Intel only");
        return;
    }
    check_equal(trap.kind, KIND_SYSCALL32, "syscall in compatibility mode");
    check_equal(trap.registers.rip, FAST_AT + 2, "RIP past it");
    check_equal(trap.registers.cs, FLAT_USER_CS32, "CS");
    check_equal(trap.registers.ss, FLAT_USER_SS32, "SS");
    check_equal(trap.registers.rax, 7, "EAX");
    check_equal(trap.upcall_mask, 1, "CALLBACKF_mask_events");
    callback_register(CALLBACKTYPE_syscall32, 0, NULL);
    trap = user_run(fast, fast_end, registers32());
    check_trap(trap, VECTOR_UD, 0, "without a callback: #UD");
    check_equal(trap.registers.rip, FAST_AT, "at the instruction");
}

static void check_sysenter(void)
{
    struct trap_record trap = user_run(enter, enter_end, registers32());

    if (trap.kind == VECTOR_UD) {
        check(!intel(), "sysenter in compatibility mode is #UD on AMD only");
        return;
    }
    check_trap(trap, VECTOR_GP, 0, "sysenter without a callback: #GP(0)");
    check_equal(callback_register(CALLBACKTYPE_sysenter, CALLBACKF_mask_events, entry_sysenter), 0, "register sysenter");
    trap = user_run(enter, enter_end, registers32());
    check_equal(trap.kind, KIND_SYSENTER, "sysenter");
    check_equal(trap.registers.rax, 9, "EAX");
    check_equal(trap.registers.rip, 0, "the frame has no RIP: SYSENTER does not keep it");
    check_equal(trap.registers.cs & 3, 3, "but says user context");
    check_equal(trap.registers.ss, FLAT_USER_SS, "SS");
    check_equal(trap.upcall_mask, 1, "CALLBACKF_mask_events");
}

PROGRAM(user32)
{
    struct registers registers = registers32();
    struct trap_record trap;

    user_init();
    trap_table_install(0x80, 3);
    trap = user_run(int80, int80_end, registers);
    check_trap(trap, 0x80, 0, "int $0x80");
    check_equal(trap.registers.rbx, 0x11223344, "a 4-byte push and pop");
    check_equal(trap.registers.rcx & 0xffff, FLAT_USER_CS32, "CS as user sees it");
    check_equal(trap.registers.rdx, 0xffffffff, "registers are 32 bits wide");
    check_equal(trap.registers.cs, FLAT_USER_CS32, "CS in the frame");
    check_equal(trap.registers.ss, FLAT_USER_SS32, "SS in the frame");
    trap = user_run(fault, fault_end, registers);
    check_trap(trap, VECTOR_PF, PF_USER, "#PF");
    check_equal(trap.cr2, 0x500000, "CR2");
    check_syscall32();
    check_sysenter();
}
