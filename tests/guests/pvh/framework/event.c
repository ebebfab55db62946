#include "event.h"

#include "hypercall.h"
#include "processor.h"
#include "start.h"

#define LONG_BITS (8 * sizeof(unsigned long))

volatile unsigned event_upcalls[MAX_VCPUS];
volatile unsigned event_counts[1024];

static struct vcpu_info *vcpu_infos[MAX_VCPUS];

void events_init(void)
{
    for (unsigned vcpu = 0; vcpu < MAX_VCPUS; vcpu++)
        vcpu_infos[vcpu] = &shared_info->vcpu_info[vcpu];
    /* The backends' events would only get into the way: the console and the store are polled here. */
    event_mask(console_port);
    event_mask(store_port);
    event_clear(console_port);
    event_clear(store_port);
    vcpu_infos[0]->evtchn_pending_sel = 0;
    vcpu_infos[0]->evtchn_upcall_pending = 0;
}

struct vcpu_info *event_vcpu_info(unsigned vcpu)
{
    return vcpu_infos[vcpu];
}

void event_set_vcpu_info(unsigned vcpu, struct vcpu_info *info)
{
    vcpu_infos[vcpu] = info;
}

void event_take(unsigned vcpu)
{
    volatile struct vcpu_info *info = vcpu_infos[vcpu];
    unsigned long words;

    event_upcalls[vcpu]++;
    info->evtchn_upcall_pending = 0;
    words = __atomic_exchange_n(&info->evtchn_pending_sel, 0, __ATOMIC_SEQ_CST);
    for (; words; words &= words - 1) {
        unsigned word = __builtin_ctzl(words);
        unsigned long bits = shared_info->evtchn_pending[word] & ~shared_info->evtchn_mask[word];

        for (; bits; bits &= bits - 1) {
            unsigned port = word * LONG_BITS + __builtin_ctzl(bits);

            event_clear(port);
            if (port < 1024)
                event_counts[port]++;
        }
    }
}

bool event_pending(unsigned port)
{
    return *(volatile unsigned long *)&shared_info->evtchn_pending[port / LONG_BITS] >> port % LONG_BITS & 1;
}

void event_clear(unsigned port)
{
    __atomic_fetch_and(&shared_info->evtchn_pending[port / LONG_BITS], ~(1UL << port % LONG_BITS), __ATOMIC_SEQ_CST);
}

void event_mask(unsigned port)
{
    __atomic_fetch_or(&shared_info->evtchn_mask[port / LONG_BITS], 1UL << port % LONG_BITS, __ATOMIC_SEQ_CST);
}

void event_unmask_locally(unsigned port)
{
    __atomic_fetch_and(&shared_info->evtchn_mask[port / LONG_BITS], ~(1UL << port % LONG_BITS), __ATOMIC_SEQ_CST);
}

long event_alloc_unbound(unsigned remote_domain)
{
    struct evtchn_alloc_unbound argument = {.dom = DOMID_SELF, .remote_dom = remote_domain};
    long result = HYPERCALL(event_channel_op, EVTCHNOP_alloc_unbound, &argument);

    return result ? result : (long)argument.port;
}

long event_bind_interdomain(unsigned domain, unsigned remote_port)
{
    struct evtchn_bind_interdomain argument = {.remote_dom = domain, .remote_port = remote_port};
    long result = HYPERCALL(event_channel_op, EVTCHNOP_bind_interdomain, &argument);

    return result ? result : (long)argument.local_port;
}

long event_bind_virq(unsigned virq, unsigned vcpu)
{
    struct evtchn_bind_virq argument = {.virq = virq, .vcpu = vcpu};
    long result = HYPERCALL(event_channel_op, EVTCHNOP_bind_virq, &argument);

    return result ? result : (long)argument.port;
}

long event_bind_ipi(unsigned vcpu)
{
    struct evtchn_bind_ipi argument = {.vcpu = vcpu};
    long result = HYPERCALL(event_channel_op, EVTCHNOP_bind_ipi, &argument);

    return result ? result : (long)argument.port;
}

long event_bind_vcpu(unsigned port, unsigned vcpu)
{
    struct evtchn_bind_vcpu argument = {.port = port, .vcpu = vcpu};

    return HYPERCALL(event_channel_op, EVTCHNOP_bind_vcpu, &argument);
}

long event_send(unsigned port)
{
    struct evtchn_send argument = {.port = port};

    return HYPERCALL(event_channel_op, EVTCHNOP_send, &argument);
}

long event_close(unsigned port)
{
    struct evtchn_close argument = {.port = port};

    return HYPERCALL(event_channel_op, EVTCHNOP_close, &argument);
}

u64 clock_now(void)
{
    const volatile struct vcpu_time_info *time = &vcpu_infos[0]->time;
    u32 version;
    u64 now;

    do {
        u64 delta;

        version = time->version;
        barrier();
        delta = rdtsc() - time->tsc_timestamp;
        delta = time->tsc_shift >= 0 ? delta << time->tsc_shift : delta >> -time->tsc_shift;
        /* The product has 96 bits, of which the lowest 32 are dropped. */
        now = time->system_time + (delta >> 32) * time->tsc_to_system_mul + ((delta & 0xffffffff) * time->tsc_to_system_mul >> 32);
        barrier();
    } while ((version & 1) || version != time->version);
    return now;
}

void clock_sleep(u64 nanoseconds)
{
    struct sched_poll argument = {.nr_ports = 0, .timeout = clock_now() + nanoseconds};

    do
        HYPERCALL(sched_op, SCHEDOP_poll, &argument);
    while (clock_now() < argument.timeout && !vcpu_infos[0]->evtchn_upcall_pending);
}
