/* @expect poweroff
 * Writes 256 kB to the console as fast as it can, and then ring indices that lie. */
#include "guest.h"

#include <xen/io/console.h>

PROGRAM(console_flood)
{
    static char line[] = "0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmnop\n";
    struct xencons_interface *ring = mfn_to_virt(start_info->console.domU.mfn);

    for (int i = 0; i < 4096; i++)
        console_write(line, sizeof(line) - 1);
    for (int i = 0; i < 2000; i++)
        event_send(start_info->console.domU.evtchn);
    /* Let the backend drain, then claim to have written 4 GB. */
    print("RESULT PASS\n");
    while (*(volatile u32 *)&ring->out_cons != ring->out_prod)
        clock_sleep(MILLISECONDS);
    *(volatile u32 *)&ring->out_prod += 0x80000000;
    event_send(start_info->console.domU.evtchn);
    clock_sleep(5 * MILLISECONDS);
    *(volatile u32 *)&ring->in_cons = 0xdeadbeef;
    event_send(start_info->console.domU.evtchn);
    clock_sleep(5 * MILLISECONDS);
    shutdown(SHUTDOWN_poweroff);
}
