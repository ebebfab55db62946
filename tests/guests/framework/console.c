#include "console.h"

#include <xen/io/console.h>

#include "hypercall.h"
#include "paging.h"
#include "start.h"

static struct xencons_interface *ring;

void console_init(void)
{
    ring = mfn_to_virt(start_info->console.domU.mfn);
}

static void notify_backend(void)
{
    struct evtchn_send send = {.port = start_info->console.domU.evtchn};

    hypercall_event_channel_op(EVTCHNOP_send, &send);
}

void console_write(const char *text, size_t bytes)
{
    while (bytes) {
        u32 prod = ring->out_prod;

        while (bytes && prod - *(volatile u32 *)&ring->out_cons < sizeof(ring->out)) {
            ring->out[MASK_XENCONS_IDX(prod, ring->out)] = *text++;
            prod++;
            bytes--;
        }
        barrier();
        *(volatile u32 *)&ring->out_prod = prod;
        notify_backend();
        if (bytes)
            hypercall_sched_op(SCHEDOP_yield, NULL);
    }
}
