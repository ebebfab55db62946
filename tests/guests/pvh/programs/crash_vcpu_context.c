/* @modes 64
 * @vcpus 2
 * @expect crash
 * A second vCPU is started with control registers that make no sense. The first one goes on until that crashes the domain. */
#include "guest.h"

PROGRAM(crash_vcpu_context)
{
    static struct vcpu_hvm_context context;

    vcpu_context(1, &context);
    context.cpu_regs.x86_64.cr3 = ~0UL;
    context.cpu_regs.x86_64.cr4 |= 0xfffUL << 40;
    context.cpu_regs.x86_64.rip = NON_CANONICAL;
    if (HYPERCALL(vcpu_op, VCPUOP_initialise, 1, &context) || HYPERCALL(vcpu_op, VCPUOP_up, 1))
        shutdown(SHUTDOWN_crash); /* it may be refused, too */
    for (;;)
        asm volatile("pause");
}
