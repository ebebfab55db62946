/* The FIFO ABI: registration and its refusals, order in a queue, priorities, masks, early events, reset back to the 2-level ABI. */
#include "guest.h"

#define PENDING (1U << EVTCHN_FIFO_PENDING)
#define MASKED (1U << EVTCHN_FIFO_MASKED)
#define LINKED (1U << EVTCHN_FIFO_LINKED)

static struct evtchn_fifo_control_block *control;
static volatile event_word_t *words;
static u32 heads[EVTCHN_FIFO_MAX_QUEUES];
static unsigned handled[64], count, upcalls;

static void on_event(struct registers *registers)
{
    u32 ready;

    (void)registers;
    upcalls++;
    event_vcpu_info()->evtchn_upcall_pending = 0;
    ready = __atomic_exchange_n(&control->ready, 0, __ATOMIC_SEQ_CST);
    while (ready) {
        unsigned queue = __builtin_ctz(ready);
        u32 port = heads[queue] ? heads[queue] : control->head[queue];
        u32 old = __atomic_fetch_and(&words[port], ~(LINKED | EVTCHN_FIFO_LINK_MASK), __ATOMIC_SEQ_CST);

        heads[queue] = old & EVTCHN_FIFO_LINK_MASK;
        if (!heads[queue])
            ready &= ~(1U << queue);
        if ((old & PENDING) && !(old & MASKED) && count < ARRAY_SIZE(handled)) {
            __atomic_fetch_and(&words[port], ~PENDING, __ATOMIC_SEQ_CST);
            handled[count++] = port;
        }
        ready |= __atomic_exchange_n(&control->ready, 0, __ATOMIC_SEQ_CST);
    }
}

static long init_control(unsigned long mfn, unsigned offset, unsigned vcpu)
{
    struct evtchn_init_control argument = {.control_gfn = mfn, .offset = offset, .vcpu = vcpu};
    long result = hypercall_event_channel_op(EVTCHNOP_init_control, &argument);

    if (!result)
        check_equal(argument.link_bits, EVTCHN_FIFO_LINK_BITS, "link_bits");
    return result;
}

static long expand_array(unsigned long mfn)
{
    struct evtchn_expand_array argument = {.array_gfn = mfn};

    return hypercall_event_channel_op(EVTCHNOP_expand_array, &argument);
}

static long set_priority(unsigned port, unsigned priority)
{
    struct evtchn_set_priority argument = {.port = port, .priority = priority};

    return hypercall_event_channel_op(EVTCHNOP_set_priority, &argument);
}

/* Let everything in that waits; the ports handled are in handled[0..count). */
static void receive(void)
{
    count = 0;
    events_enable();
    events_disable();
}

PROGRAM(event_fifo)
{
    unsigned long control_mfn, array_mfn;
    struct evtchn_reset self = {.dom = DOMID_SELF};
    long early, first, second, high, low;
    void *page = page_alloc();

    trap_set_handler(KIND_EVENT, on_event);
    control = page;
    control_mfn = virt_to_mfn(page);
    words = page_alloc();
    array_mfn = virt_to_mfn(words);
    for (unsigned i = 0; i < PAGE_SIZE / sizeof(*words); i++)
        words[i] = MASKED;
    early = event_bind_ipi(0);
    check_equal(expand_array(array_mfn), -XEN_EOPNOTSUPP, "expand_array before init_control");
    check_equal(set_priority(early, 3), -XEN_ENOSYS, "set_priority before init_control");
    check_equal(init_control(control_mfn, 4, 0), -XEN_EINVAL, "an offset that is no multiple of 8");
    check_equal(init_control(control_mfn, 4096 - 64, 0), -XEN_EINVAL, "a control block across the page's end");
    check_equal(init_control(control_mfn, 0, 77), -XEN_ENOENT, "a control block of vCPU 77");
    check_equal(init_control(virt_to_mfn((void *)start_info->pt_base), 0, 0), -XEN_EINVAL, "a control block in a page table");
    check_equal(init_control(1UL << 40, 0, 0), -XEN_EINVAL, "a control block in no frame");
    check_equal(init_control(control_mfn, 0, 0), 0, "init_control");
    check_equal(init_control(control_mfn, 0, 0), -XEN_EINVAL, "a second time");
    check_equal(event_send(early), 0, "an event before there is a word for it");
    check_equal(expand_array(virt_to_mfn((void *)start_info->pt_base)), -XEN_EINVAL, "an array page that is a page table");
    check_equal(expand_array(array_mfn), 0, "expand_array");
    check_equal(words[early], PENDING | MASKED, "the early event is pending now");
    check_equal(event_unmask(early), 0, "unmask it");
    check_equal(words[early], PENDING | LINKED, "and it is linked");
    receive();
    check(count == 1 && handled[0] == early, "and received");

    first = event_bind_ipi(0);
    second = event_bind_ipi(0);
    high = event_bind_ipi(0);
    low = event_bind_ipi(0);
    for (long port = first; port <= low; port++)
        check_equal(event_unmask(port), 0, "unmask");
    check_equal(set_priority(high, 16), -XEN_EINVAL, "priority 16");
    check_equal(set_priority(high, EVTCHN_FIFO_PRIORITY_MAX), 0, "the highest priority");
    check_equal(set_priority(low, EVTCHN_FIFO_PRIORITY_MIN), 0, "the lowest priority");
    check_equal(set_priority(low + 1, 5), -XEN_EACCES, "priority of a closed port");
    event_send(low);
    event_send(second);
    event_send(first);
    event_send(second);
    event_send(high);
    check_equal(words[second] & EVTCHN_FIFO_LINK_MASK, first, "the second event of a queue hangs on the first");
    receive();
    check(count == 4 && handled[0] == high && handled[3] == low, "priorities are obeyed");
    check(handled[1] == second && handled[2] == first, "a queue keeps the order of the events");

    __atomic_fetch_or(&words[first], MASKED, __ATOMIC_SEQ_CST);
    event_send(first);
    check_equal(words[first], PENDING | MASKED, "a masked event is pending and not linked");
    receive();
    check_equal(count, 0, "nor received");
    check_equal(event_unmask(first), 0, "unmask");
    receive();
    check(count == 1 && handled[0] == first, "then it is");

    event_send(first);
    check_equal(event_close(first), 0, "close a port that is linked");
    check_equal(words[first], LINKED, "it stays linked, not pending");
    check(event_bind_ipi(0) != first, "and is not given anew");
    receive();
    check_equal(count, 0, "nothing is received");
    check_equal(event_bind_ipi(0), first, "now it is");

    events_disable();
    upcalls = 0;
    for (int i = 0; i < 100; i++)
        event_send(i & 1 ? second : high);
    receive();
    check_equal(count, 2, "a hundred events on two ports are two");
    check_equal(upcalls, 1, "in one upcall");

    check_equal(hypercall_event_channel_op(EVTCHNOP_reset, &self), 0, "reset");
    check_equal(expand_array(array_mfn), -XEN_EOPNOTSUPP, "it is the 2-level ABI again");
    trap_set_handler(KIND_EVENT, event_upcall);
    events_forget();
    first = event_bind_ipi(0);
    event_send(first);
    check(event_pending(first), "events are in shared_info again");
}
