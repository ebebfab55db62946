/*
 * SYSENTER in the guest's kernel, with nothing mapped at the top of the address space: no room for its frame.
 * @expect crash
 */
#include "guest.h"

PROGRAM(sysenter_kernel_crash)
{
    check_equal(callback_register(CALLBACKTYPE_sysenter, CALLBACKF_mask_events, entry_sysenter), 0, "register sysenter");
    asm volatile("sysenter" ::: "memory");
    check(false, "SYSENTER came back");
}
