/* HYPERVISOR_stack_switch: frames from user mode go to the registered stack, those from the kernel to the current one. */
#include "guest.h"

USER_CODE(fault, "ud2");

static u64 frame_at;
static struct registers seen;

static void on_ud(struct registers *registers)
{
    frame_at = (u64)registers;
    seen = *registers;
    if ((registers->cs & 3) == 3)
        user_stopped(registers);
    registers->rip += 2;
}

PROGRAM(stack_switch)
{
    static u8 stack_a[8192] __attribute__((aligned(16))), stack_b[8192] __attribute__((aligned(16)));
    u64 here;

    user_init();
    trap_set_handler(VECTOR_UD, on_ud);
    check_equal(hypercall_stack_switch(FLAT_KERNEL_SS, (u64)(stack_a + sizeof(stack_a))), 0, "stack_switch to A");
    user_run_code(fault);
    check(frame_at > (u64)stack_a && frame_at < (u64)(stack_a + sizeof(stack_a)), "a trap from user mode comes on A");
    check_equal(hypercall_stack_switch(FLAT_KERNEL_SS, (u64)(stack_b + sizeof(stack_b))), 0, "stack_switch to B");
    user_run_code(fault);
    check(frame_at > (u64)stack_b && frame_at < (u64)(stack_b + sizeof(stack_b)), "then on B");
    check_equal(frame_at, (u64)(stack_b + sizeof(stack_b)) - sizeof(struct registers), "at its very top");
    check_equal(hypercall_stack_switch(FLAT_KERNEL_SS, (u64)(stack_b + sizeof(stack_b)) - 8), 0, "an unaligned stack");
    user_run_code(fault);
    check_equal(frame_at & 15, ((u64)(stack_b + sizeof(stack_b)) - 16 - sizeof(struct registers)) & 15, "is aligned down to 16");
    asm volatile("mov %%rsp, %0" : "=r"(here));
    asm volatile("ud2" ::: "memory");
    check(frame_at < here && here - frame_at < 1024, "a trap from the kernel comes on the current stack");
    check_equal(seen.rsp & ~15UL, (frame_at + sizeof(struct registers)) & ~15UL, "right below the interrupted RSP");
}
