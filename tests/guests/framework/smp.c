#include "smp.h"

#include "check.h"
#include "clock.h"
#include "hypercall.h"
#include "paging.h"
#include "start.h"
#include "trap.h"

#define STACK_SIZE 16384
#define TURNS_BEFORE_YIELD 4096

static u8 stacks[SMP_MAX_VCPUS][STACK_SIZE] __attribute__((aligned(16)));
static smp_function_t *functions[SMP_MAX_VCPUS];
static bool initialised[SMP_MAX_VCPUS];
static volatile bool finished[SMP_MAX_VCPUS];
static volatile unsigned arrived, generation;

static void smp_main(unsigned vcpu)
{
    for (;;) {
        functions[vcpu](vcpu);
        finished[vcpu] = true;
        hypercall_vcpu_op(VCPUOP_down, vcpu, NULL); /* returns when it is brought up again */
    }
}

static void initialise(unsigned vcpu)
{
    static struct vcpu_guest_context context;

    memset(&context, 0, sizeof(context));
    traps_fill(context.trap_ctxt);
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)smp_main;
    context.user_regs.rdi = vcpu;
    context.user_regs.rsp = (u64)stacks[vcpu] + STACK_SIZE - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.user_regs.rflags = X86_EFLAGS_IF;
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)stacks[vcpu] + STACK_SIZE;
    context.event_callback_eip = (u64)entry_event;
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    shared_info->vcpu_info[vcpu].evtchn_upcall_mask = 1;
    if (hypercall_vcpu_op(VCPUOP_initialise, vcpu, &context))
        check(false, "initialise vCPU %u", vcpu);
    initialised[vcpu] = true;
}

void smp_start(unsigned vcpu, smp_function_t *function)
{
    while (initialised[vcpu] && hypercall_vcpu_op(VCPUOP_is_up, vcpu, NULL) == 1)
        hypercall_sched_op(SCHEDOP_yield, NULL); /* it is on its way down from the last time */
    functions[vcpu] = function;
    finished[vcpu] = false;
    if (!initialised[vcpu])
        initialise(vcpu);
    if (hypercall_vcpu_op(VCPUOP_up, vcpu, NULL))
        check(false, "bring up vCPU %u", vcpu);
}

bool smp_finished(unsigned vcpu)
{
    return finished[vcpu];
}

bool smp_run(unsigned count, smp_function_t *function, unsigned seconds)
{
    u64 deadline = clock_now() + seconds * SECONDS;

    for (unsigned vcpu = 1; vcpu < count; vcpu++)
        smp_start(vcpu, function);
    function(0);
    for (unsigned vcpu = 1; vcpu < count; vcpu++) {
        while (!finished[vcpu] && clock_now() < deadline)
            clock_sleep(MILLISECONDS);
        if (!finished[vcpu])
            return false;
    }
    return true;
}

unsigned smp_vcpu(void)
{
    u64 offset = (u64)__builtin_frame_address(0) - (u64)stacks;

    return offset < sizeof(stacks) ? offset / STACK_SIZE : 0;
}

unsigned smp_take_upcall(void)
{
    unsigned vcpu = smp_vcpu();
    volatile struct vcpu_info *info = &shared_info->vcpu_info[vcpu];

    info->evtchn_upcall_pending = 0;
    __atomic_exchange_n(&info->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    return vcpu;
}

void smp_relax(unsigned *turns)
{
    if (++*turns % TURNS_BEFORE_YIELD == 0)
        hypercall_sched_op(SCHEDOP_yield, NULL);
    else
        asm volatile("pause");
}

void smp_barrier(unsigned count)
{
    unsigned mine = generation, turns = 0;

    if (__atomic_add_fetch(&arrived, 1, __ATOMIC_SEQ_CST) == count) {
        arrived = 0;
        generation = mine + 1;
        return;
    }
    while (generation == mine)
        smp_relax(&turns);
}

u64 smp_scaled(u64 rounds)
{
    const char *option = strstr((const char *)start_info->cmd_line, "scale=");
    u64 scale = 0;

    if (!option)
        return rounds;
    for (option += strlen("scale="); *option >= '0' && *option <= '9'; option++)
        scale = scale * 10 + *option - '0';
    return rounds * scale;
}
