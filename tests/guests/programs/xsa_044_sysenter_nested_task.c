/* XSA-44: SYSENTER with NT set in the flags made Xen's own IRET fault. */
#include "guest.h"

USER_CODE(enter, ".code32\n pushf\n orl $0x4000, (%esp)\n popf\n mov $9, %eax\n sysenter\n nop");
USER_CODE(call64, "pushf\n orq $0x4000, (%rsp)\n popf\n mov $8, %eax\n syscall\n nop");

PROGRAM(xsa_044_sysenter_nested_task)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    user_init();
    trap = user_run_code(call64);
    check_equal(trap.kind, KIND_SYSCALL, "XSA-44: SYSCALL with NT");
    check(trap.registers.r11 & X86_EFLAGS_NT || trap.registers.rflags & X86_EFLAGS_NT, "NT is kept for the return");
    callback_register(CALLBACKTYPE_sysenter, CALLBACKF_mask_events, entry_sysenter);
    registers.cs = FLAT_USER_CS32;
    registers.ss = FLAT_USER_SS32;
    trap = user_run(enter, enter_end, registers);
    check(trap.kind == KIND_SYSENTER || trap.kind == VECTOR_UD, "XSA-44: SYSENTER with NT arrives (#UD on AMD), got %u", trap.kind);
    check_equal(trap.registers.rax, 9, "registers are kept");
}
