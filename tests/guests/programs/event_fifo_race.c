/* @vcpus 2
 * vCPU 1 consumes FIFO events with atomic operations while vCPU 0 sends them: each is handled, none is left behind. */
#include "guest.h"

#define PENDING (1U << EVTCHN_FIFO_PENDING)
#define MASKED (1U << EVTCHN_FIFO_MASKED)
#define LINKED (1U << EVTCHN_FIFO_LINKED)
#define PORTS 8
#define ROUNDS 3000

static struct evtchn_fifo_control_block *control;
static volatile event_word_t *words;
static volatile unsigned sent[64], seen[64];
static volatile bool started;
static u8 second_stack[16384] __attribute__((aligned(16)));

static void second_main(void)
{
    static u32 heads[EVTCHN_FIFO_MAX_QUEUES];
    u32 ready = 0;

    started = true;
    for (;;) {
        u32 queue, port, old;

        ready |= __atomic_exchange_n(&control->ready, 0, __ATOMIC_SEQ_CST);
        if (!ready)
            continue;
        queue = __builtin_ctz(ready);
        port = heads[queue] ? heads[queue] : control->head[queue];
        old = __atomic_fetch_and(&words[port], ~(LINKED | EVTCHN_FIFO_LINK_MASK), __ATOMIC_SEQ_CST);
        heads[queue] = old & EVTCHN_FIFO_LINK_MASK;
        if (!heads[queue])
            ready &= ~(1U << queue);
        if (!(old & MASKED) && (__atomic_fetch_and(&words[port], ~PENDING, __ATOMIC_SEQ_CST) & PENDING))
            seen[port] = sent[port];
    }
}

PROGRAM(event_fifo_race)
{
    static struct vcpu_guest_context context;
    struct evtchn_init_control init = {.vcpu = 1};
    struct evtchn_expand_array expand;
    u64 deadline = clock_now() + 10 * SECONDS;
    long ports[PORTS];
    bool all = true, clean = true;

    control = page_alloc();
    words = page_alloc();
    init.control_gfn = virt_to_mfn(control);
    expand.array_gfn = virt_to_mfn(words);
    check_equal(hypercall_event_channel_op(EVTCHNOP_init_control, &init), 0, "init_control of vCPU 1");
    check_equal(hypercall_event_channel_op(EVTCHNOP_expand_array, &expand), 0, "expand_array");
    for (int i = 0; i < PORTS; i++) {
        struct evtchn_set_priority priority = {.priority = 6 + i % 2};

        ports[i] = priority.port = event_bind_ipi(1);
        hypercall_event_channel_op(EVTCHNOP_set_priority, &priority);
    }
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "up");
    while (!started && clock_now() < deadline)
        clock_sleep(MILLISECONDS);

    for (int round = 1; round <= ROUNDS; round++) {
        long port = ports[(round * 5 + round / 7) % PORTS];

        sent[port] = round;
        event_send(port);
    }
    for (int i = 0; i < PORTS; i++) {
        while (seen[ports[i]] != sent[ports[i]] && clock_now() < deadline)
            clock_sleep(MILLISECONDS);
        all = all && seen[ports[i]] == sent[ports[i]];
        clean = clean && !words[ports[i]];
    }
    check(all, "the last event of every port was handled");
    check(clean, "and no word is left pending, linked or busy");
}
