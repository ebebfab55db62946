/* @vcpus 2
 * Locked increments by two vCPUs at the same time: none is lost. */
#include "guest.h"

#define ROUNDS 2000000UL

static volatile u64 counter, ready, done;
static u8 second_stack[16384] __attribute__((aligned(16)));

static void count(void)
{
    ready++;
    for (u64 i = 0; i < ROUNDS; i++)
        asm volatile("lock incq %0" : "+m"(counter));
}

static void second_main(void)
{
    count();
    done = 1;
    for (;;)
        hypercall_vcpu_op(VCPUOP_down, 1, NULL);
}

PROGRAM(vcpu_atomics)
{
    static struct vcpu_guest_context context;
    u64 deadline;

    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.user_regs.rflags = X86_EFLAGS_IF;
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "up");
    deadline = clock_now() + 5 * SECONDS;
    while (!ready && clock_now() < deadline)
        asm volatile("pause");
    count();
    deadline = clock_now() + 20 * SECONDS;
    while (!done && clock_now() < deadline)
        clock_sleep(MILLISECONDS);
    check(done, "vCPU 1 is done");
    check_equal(counter, 2 * ROUNDS, "all increments counted");
}
