#include "event.h"

#include "clock.h"
#include "hypercall.h"
#include "start.h"

volatile unsigned event_upcalls;
volatile unsigned event_counts[4096];
struct registers event_interrupted;

static struct vcpu_info *own_vcpu_info;

void events_init(void)
{
    own_vcpu_info = &shared_info->vcpu_info[0];
    /* The backends' events would only get into the way: the console and the store are polled here. */
    event_mask(start_info->console.domU.evtchn);
    event_mask(start_info->store_evtchn);
    event_clear(start_info->console.domU.evtchn);
    event_clear(start_info->store_evtchn);
    events_forget();
}

void events_forget(void)
{
    own_vcpu_info->evtchn_pending_sel = 0;
    own_vcpu_info->evtchn_upcall_pending = 0;
}

struct vcpu_info *event_vcpu_info(void)
{
    return own_vcpu_info;
}

void event_set_vcpu_info(struct vcpu_info *vcpu_info)
{
    own_vcpu_info = vcpu_info;
}

void events_enable(void)
{
    volatile struct vcpu_info *vcpu = own_vcpu_info;

    vcpu->evtchn_upcall_mask = 0;
    barrier();
    if (vcpu->evtchn_upcall_pending)
        hypercall_xen_version(XENVER_version, NULL); /* Xen delivers on the way out of any hypercall */
}

void event_upcall(struct registers *registers)
{
    volatile struct vcpu_info *vcpu = own_vcpu_info;
    unsigned long words;

    event_interrupted = *registers;
    event_upcalls++;
    vcpu->evtchn_upcall_pending = 0;
    words = __atomic_exchange_n(&vcpu->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for (; words; words &= words - 1) {
        unsigned word = __builtin_ctzl(words);
        unsigned long bits = shared_info->evtchn_pending[word] & ~shared_info->evtchn_mask[word];

        for (; bits; bits &= bits - 1) {
            unsigned port = word * 64 + __builtin_ctzl(bits);

            event_clear(port);
            event_counts[port]++;
        }
    }
}

bool event_pending(unsigned port)
{
    return (*(volatile unsigned long *)&shared_info->evtchn_pending[port / 64] >> (port % 64)) & 1;
}

void event_clear(unsigned port)
{
    __atomic_fetch_and(&shared_info->evtchn_pending[port / 64], ~(1UL << (port % 64)), __ATOMIC_SEQ_CST);
}

bool event_masked(unsigned port)
{
    return (*(volatile unsigned long *)&shared_info->evtchn_mask[port / 64] >> (port % 64)) & 1;
}

void event_mask(unsigned port)
{
    __atomic_fetch_or(&shared_info->evtchn_mask[port / 64], 1UL << (port % 64), __ATOMIC_SEQ_CST);
}

void event_unmask_locally(unsigned port)
{
    __atomic_fetch_and(&shared_info->evtchn_mask[port / 64], ~(1UL << (port % 64)), __ATOMIC_SEQ_CST);
}

long event_alloc_unbound(unsigned remote_domain)
{
    struct evtchn_alloc_unbound argument = {.dom = DOMID_SELF, .remote_dom = remote_domain};
    long result = hypercall_event_channel_op(EVTCHNOP_alloc_unbound, &argument);

    return result ? result : argument.port;
}

long event_bind_interdomain(unsigned domain, unsigned remote_port)
{
    struct evtchn_bind_interdomain argument = {.remote_dom = domain, .remote_port = remote_port};
    long result = hypercall_event_channel_op(EVTCHNOP_bind_interdomain, &argument);

    return result ? result : argument.local_port;
}

long event_bind_virq(unsigned virq, unsigned vcpu)
{
    struct evtchn_bind_virq argument = {.virq = virq, .vcpu = vcpu};
    long result = hypercall_event_channel_op(EVTCHNOP_bind_virq, &argument);

    return result ? result : argument.port;
}

long event_bind_ipi(unsigned vcpu)
{
    struct evtchn_bind_ipi argument = {.vcpu = vcpu};
    long result = hypercall_event_channel_op(EVTCHNOP_bind_ipi, &argument);

    return result ? result : argument.port;
}

long event_send(unsigned port)
{
    struct evtchn_send argument = {.port = port};

    return hypercall_event_channel_op(EVTCHNOP_send, &argument);
}

long event_close(unsigned port)
{
    struct evtchn_close argument = {.port = port};

    return hypercall_event_channel_op(EVTCHNOP_close, &argument);
}

long event_unmask(unsigned port)
{
    struct evtchn_unmask argument = {.port = port};

    return hypercall_event_channel_op(EVTCHNOP_unmask, &argument);
}

long event_status(unsigned port, struct evtchn_status *status)
{
    *status = (struct evtchn_status){.dom = DOMID_SELF, .port = port};
    return hypercall_event_channel_op(EVTCHNOP_status, status);
}

bool event_wait(unsigned port, u64 nanoseconds)
{
    evtchn_port_t ports[1] = {port};
    struct sched_poll argument = {.nr_ports = 1, .timeout = clock_now() + nanoseconds};

    set_xen_guest_handle(argument.ports, ports);
    hypercall_sched_op(SCHEDOP_poll, &argument);
    return event_pending(port);
}
