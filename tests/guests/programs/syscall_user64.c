/* `syscall` from 64-bit user space: to the registered callback on the kernel stack, RCX = RIP, R11 = RFLAGS, mask flag honoured. */
#include "guest.h"

USER_CODE(call, "stc\n mov $0x55, %edi\n mov $0x66, %esi\n syscall\n nop");

#define CALL_RETURN (USER_CODE_ADDRESS + 1 + 5 + 5 + 2)

PROGRAM(syscall_user64)
{
    struct registers registers = user_registers();
    struct trap_record trap;

    user_init();
    registers.rax = 0x1234567890;
    registers.rflags |= X86_EFLAGS_IF;
    trap = user_run(call, call_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "the syscall callback");
    check_equal(trap.registers.rax, 0x1234567890, "RAX untouched");
    check_equal(trap.registers.rdi, 0x55, "RDI");
    check_equal(trap.registers.rsi, 0x66, "RSI");
    check_equal(trap.registers.rip, CALL_RETURN, "RIP past the instruction");
    check_equal(trap.registers.rcx, CALL_RETURN, "RCX has it too");
    check_equal(trap.registers.cs, FLAT_USER_CS64, "CS");
    check_equal(trap.registers.ss, FLAT_USER_SS64, "SS");
    check_equal(trap.registers.rsp, registers.rsp, "RSP");
    check(trap.registers.rflags & X86_EFLAGS_CF, "RFLAGS has CF");
    check(trap.registers.r11 & X86_EFLAGS_CF, "R11 has it too");
    check(trap.registers.rflags & X86_EFLAGS_IF, "IF in the frame, as upcalls were on");
    check_equal(trap.upcall_mask, 0, "upcalls stay on");

    check_equal(callback_register(CALLBACKTYPE_syscall, CALLBACKF_mask_events, entry_syscall), 0, "register with CALLBACKF_mask_events");
    trap = user_run(call, call_end, registers);
    check_equal(trap.kind, KIND_SYSCALL, "the callback again");
    check_equal(trap.upcall_mask, 1, "with upcalls masked");
    check_equal(trap.registers.saved_upcall_mask, 0, "and the mask before in the frame");

    callback_register(CALLBACKTYPE_syscall, 0, NULL);
    trap = user_run(call, call_end, registers);
    check_trap(trap, VECTOR_UD, 0, "without a callback: #UD");
    check_equal(trap.registers.rip, CALL_RETURN - 2, "at the instruction");
}
