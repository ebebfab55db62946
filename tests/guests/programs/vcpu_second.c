/* @vcpus 2
 * A second vCPU: initialise, up, IPI to it, events on it, down. */
#include "guest.h"

static volatile u64 stage, counted;
static volatile u64 second_cs;
static u8 second_stack[16384] __attribute__((aligned(16)));
static long ipi;

/* Runs on vCPU 1, which shares everything with vCPU 0: no check() here, the console and the trap record are vCPU 0's. */
static void second_main(void)
{
    evtchn_port_t ports[1] = {ipi};
    struct sched_poll poll = {.nr_ports = 1};

    second_cs = segment_read(cs);
    stage = 1;
    set_xen_guest_handle(poll.ports, ports);
    while (!event_pending(ipi))
        hypercall_sched_op(SCHEDOP_poll, &poll);
    stage = 2;
    while (stage == 2)
        asm volatile("lock incq %0\n pause" : "+m"(counted));
    stage = 4;
    hypercall_vcpu_op(VCPUOP_down, 1, NULL);
    stage = 5;
    for (;;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
}

static bool wait_stage(u64 wanted)
{
    u64 deadline = clock_now() + 5 * SECONDS;

    while (stage != wanted && clock_now() < deadline)
        clock_sleep(MILLISECONDS);
    return stage == wanted;
}

PROGRAM(vcpu_second)
{
    static struct vcpu_guest_context context;
    struct vcpu_runstate_info info;
    struct evtchn_status status;
    u64 before;

    check_equal(hypercall_vcpu_op(VCPUOP_is_up, 1, NULL), 0, "vCPU 1 exists and is down");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), -XEN_EINVAL, "up before initialise");
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.user_regs.rflags = X86_EFLAGS_IF;
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = 0;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "initialise with no page table");
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    ipi = event_bind_ipi(1);
    check(ipi > 0, "an IPI port on vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise");
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), -XEN_EEXIST, "initialise twice");
    check_equal(hypercall_vcpu_op(VCPUOP_is_up, 1, NULL), 0, "still down");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "up");
    check(wait_stage(1), "it runs");
    check_equal(second_cs, FLAT_KERNEL_CS, "its CS");
    check_equal(hypercall_vcpu_op(VCPUOP_is_up, 1, NULL), 1, "is_up");
    event_status(ipi, &status);
    check_equal(status.vcpu, 1, "the port belongs to vCPU 1");
    check_equal(event_send(ipi), 0, "send it an IPI");
    check(wait_stage(2), "it wakes up from SCHEDOP_poll");
    check_equal(shared_info->vcpu_info[1].evtchn_upcall_pending, 1, "the event is in its vcpu_info");
    check_equal(hypercall_vcpu_op(VCPUOP_get_runstate_info, 1, &info), 0, "its runstate");
    before = counted;
    clock_sleep(10 * MILLISECONDS);
    check(counted > before, "both run at the same time");
    for (int i = 0; i < 100000; i++)
        asm volatile("lock incq %0" : "+m"(counted));
    stage = 3;
    check(wait_stage(4), "it sees what vCPU 0 writes");
    for (int i = 0; i < 1000 && hypercall_vcpu_op(VCPUOP_is_up, 1, NULL) == 1; i++)
        clock_sleep(MILLISECONDS);
    check_equal(hypercall_vcpu_op(VCPUOP_is_up, 1, NULL), 0, "VCPUOP_down took it down");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "up again");
    check(wait_stage(5), "it goes on after VCPUOP_down");
}
