/* @expect crash
 * A bad iret when there is no failsafe callback. */
#include "guest.h"

void registers_load(const struct registers *registers);

PROGRAM(failsafe_unregistered)
{
    struct registers registers = user_registers();

    callback_register(CALLBACKTYPE_failsafe, 0, NULL);
    registers.cs = 0x1230;
    registers.ss = FLAT_KERNEL_SS;
    registers.rsp = (u64)kernel_stack_top - 16384;
    print("about to iret\n");
    registers_load(&registers);
}
