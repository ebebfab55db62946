/* @expect running
 * Makes hypercalls with lists of 8192 elements without end, each of them page clears: the worst neighbour that a fair lock allows. */
#include "guest.h"

static struct mmuext_op operations[8192] page_aligned;

PROGRAM(loop_long_lists)
{
    void *page = page_alloc();

    for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
        operations[i] = (struct mmuext_op){.cmd = MMUEXT_CLEAR_PAGE, .arg1.mfn = virt_to_mfn(page)};
    print("RESULT PASS\n");
    for (;;)
        hypercall_mmuext_op(operations, ARRAY_SIZE(operations), NULL, DOMID_SELF);
}
