/* @expect crash
 * iret to user mode when no user page tables were ever installed. */
#include "guest.h"

void registers_load(const struct registers *registers);

PROGRAM(iret_user_without_tables)
{
    struct registers registers = user_registers();

    print("about to leave\n");
    registers_load(&registers);
}
