/* @expect poweroff
 * Fills the store ring with requests, good and bad, as fast as the backend takes them; with no backend it gives up after a while. */
#include "guest.h"

#include <xen/io/xs_wire.h>

static struct xenstore_domain_interface *ring;
static unsigned replies;

static void drain(void)
{
    u32 prod = *(volatile u32 *)&ring->rsp_prod;

    replies += prod - ring->rsp_cons;
    *(volatile u32 *)&ring->rsp_cons = prod;
}

static bool put(const void *data, size_t bytes)
{
    const u8 *next = data;
    u64 deadline = clock_now() + 50 * MILLISECONDS;

    while (bytes) {
        if (ring->req_prod - *(volatile u32 *)&ring->req_cons == XENSTORE_RING_SIZE) {
            event_send(start_info->store_evtchn);
            drain();
            hypercall_sched_op(SCHEDOP_yield, NULL);
            if (clock_now() > deadline)
                return false;
            continue;
        }
        ring->req[MASK_XENSTORE_IDX(ring->req_prod)] = *next++;
        barrier();
        *(volatile u32 *)&ring->req_prod += 1;
        bytes--;
    }
    return true;
}

PROGRAM(store_flood)
{
    struct {
        struct xsd_sockmsg header;
        char path[32];
    } request;
    unsigned sent = 0;

    ring = mfn_to_virt(start_info->store_mfn);
    for (unsigned i = 0; i < 2000; i++) {
        request.header = (struct xsd_sockmsg){.type = i % 24, .req_id = i, .tx_id = i % 3};
        request.header.len = format_text(request.path, sizeof(request.path), "data/%u", i) + 1;
        if (!put(&request, sizeof(request.header) + request.header.len))
            break;
        sent++;
    }
    print("%u requests taken, %u bytes of replies\n", sent, replies);
    request.header = (struct xsd_sockmsg){.type = XS_WRITE, .len = 0x7fffffff};
    put(&request, sizeof(request.header));
    event_send(start_info->store_evtchn);
    clock_sleep(10 * MILLISECONDS);
    *(volatile u32 *)&ring->req_prod += 0x10000;
    event_send(start_info->store_evtchn);
    clock_sleep(10 * MILLISECONDS);
    check(true, "the domain still runs");
}
