/* @bench
 * @timeout 60
 * A round trip of two event channels between two domains that sleep in SCHEDOP_poll. With remote=N the domain lets N bind to a port, says which,
 * and answers each event; with peer=N port=P it binds, and measures. */
#include "guest.h"

#include "bench.h"

#define ROUNDS 1000
#define PATIENCE (5 * SECONDS)

static bool await(unsigned port)
{
    bool came = event_pending(port) || event_wait(port, PATIENCE);

    event_clear(port);
    return came;
}

static void answer(unsigned remote)
{
    long port = event_alloc_unbound(remote);

    check(port > 0, "allocate a port");
    print("PORT %ld\n", port);
    while (await(port) && event_send(port) == 0)
        continue;
}

static void round_trip(unsigned port)
{
    check_equal(event_send(port), 0, "send");
    check(await(port), "an answer came");
}

PROGRAM(event_peer)
{
    unsigned remote = command_line_number("remote="), peer = command_line_number("peer=");
    long port;

    if (remote) {
        answer(remote);
        return;
    }
    port = event_bind_interdomain(peer, command_line_number("port="));
    check(port > 0, "bind to the peer's port");
    if (port <= 0)
        return;
    await(port); /* a new channel is pending at once */
    for (unsigned i = 0; i < 20; i++)
        round_trip(port);
    BENCH("event_round_trip_domains", ROUNDS, round_trip(port));
}
