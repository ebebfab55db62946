/* @expect crash
 * The registered kernel stack lies in Xen's private range: nothing there may be written on the guest's behalf. */
#include "guest.h"

USER_CODE(fault, "ud2");

PROGRAM(bounce_xen_stack)
{
    user_init();
    check_equal(hypercall_stack_switch(FLAT_KERNEL_SS, XEN_PRIVATE + PAGE_SIZE), 0, "stack_switch accepts any address");
    print("about to fault\n");
    user_run_code(fault);
    check(false, "no guest gets here");
}
