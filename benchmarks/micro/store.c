/* @bench
 * @timeout 60
 * Requests to the store over the guest's ring, one at a time: read a node, write a node. */
#include "guest.h"

#include <xen/io/xs_wire.h>

#include "bench.h"

#define PATIENCE (5 * SECONDS)

static struct xenstore_domain_interface *ring;
static unsigned errors;

static void send(const void *data, size_t bytes)
{
    const u8 *next = data;

    for (; bytes; bytes--, ring->req_prod++)
        ring->req[MASK_XENSTORE_IDX(ring->req_prod)] = *next++;
    barrier();
}

static bool receive(void *data, size_t bytes)
{
    u8 *next = data;

    for (; bytes; bytes--) {
        while (*(volatile u32 *)&ring->rsp_prod == ring->rsp_cons) {
            event_clear(start_info->store_evtchn);
            if (*(volatile u32 *)&ring->rsp_prod == ring->rsp_cons && !event_wait(start_info->store_evtchn, PATIENCE))
                return false;
        }
        *next++ = ring->rsp[MASK_XENSTORE_IDX(ring->rsp_cons)];
        barrier();
        ring->rsp_cons++;
    }
    return true;
}

static void request(unsigned type, const char *payload, size_t bytes)
{
    struct xsd_sockmsg header = {.type = type, .len = bytes};
    char answer[256];

    /* A request fits into the ring, which is empty when one begins. */
    send(&header, sizeof(header));
    send(payload, bytes);
    event_send(start_info->store_evtchn);
    if (!receive(&header, sizeof(header)) || header.len > sizeof(answer) || !receive(answer, header.len) || header.type != type)
        errors++;
}

PROGRAM(store)
{
    ring = mfn_to_virt(start_info->store_mfn);
    event_unmask_locally(start_info->store_evtchn);
    for (unsigned i = 0; i < 20; i++)
        request(XS_READ, "name", 5);
    BENCH("store_ring_read", 500, request(XS_READ, "name", 5));
    BENCH("store_ring_write", 500, request(XS_WRITE, "data\0value", 10));
    check_equal(errors, 0, "all requests succeeded");
}
