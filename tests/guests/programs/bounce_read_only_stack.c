/* @expect crash
 * The registered kernel stack is read-only when an exception comes from user mode. */
#include "guest.h"

USER_CODE(fault, "ud2");

static u8 stack[PAGE_SIZE] page_aligned;

PROGRAM(bounce_read_only_stack)
{
    user_init();
    check_equal(map_page(stack, page_alloc(), PTE_READ_ONLY), 0, "a read-only page");
    check_equal(hypercall_stack_switch(FLAT_KERNEL_SS, (unsigned long)stack + PAGE_SIZE), 0, "as the kernel stack");
    print("about to fault\n");
    user_run_code(fault);
    check(false, "no guest gets here");
}
