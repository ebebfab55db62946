/* @expect crash
 * XSA-215: the failsafe callback's frame could be written over the hypervisor's memory. A kernel stack at the border of Xen's range, then a return to
 * user mode with a bad selector: no frame can be written, and only this domain crashes. */
#include "guest.h"

PROGRAM(xsa_215_failsafe_stack)
{
    struct iret_context context = {.rflags = X86_EFLAGS_MBS, .rip = USER_CODE_ADDRESS, .cs = 0xe008 | 3, .rsp = USER_STACK_TOP,
                                   .ss = FLAT_USER_SS64};

    user_init();
    hypercall_stack_switch(FLAT_KERNEL_SS, HYPERVISOR_VIRT_START + 8);
    asm volatile("mov %0, %%rsp\n mov %1, %%eax\n syscall" ::"r"(&context), "i"(__HYPERVISOR_iret), "m"(context) : "memory");
    check(false, "XSA-215: it went on");
}
