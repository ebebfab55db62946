#include "start.h"

#include "check.h"
#include "console.h"
#include "event.h"
#include "hypercall.h"
#include "processor.h"
#include "trap.h"

#include <xen/io/console.h>

#define POOL_PAGES 64

struct boot_registers boot_registers;
struct hvm_start_info *start_info;
struct shared_info *shared_info;
unsigned console_port, store_port;

u8 hypercall_page[PAGE_SIZE] page_aligned;

static struct xencons_interface *ring;
static u8 pool[POOL_PAGES][PAGE_SIZE] page_aligned;
static unsigned pool_used;

long shutdown(unsigned reason)
{
    struct sched_shutdown argument = {.reason = reason};

    return HYPERCALL(sched_op, SCHEDOP_shutdown, &argument);
}

void finish(void)
{
    print("RESULT %s\n", checks_failed ? "FAIL" : "PASS");
    for (;;)
        shutdown(SHUTDOWN_poweroff);
}

void *page_alloc(void)
{
    if (pool_used == POOL_PAGES) {
        check(false, "the program needs more than %d pages", POOL_PAGES);
        finish();
    }
    return pool[pool_used++];
}

void console_init(void)
{
    u64 gfn = 0, port = 0, store = 0;

    hvm_get_parameter(HVM_PARAM_CONSOLE_PFN, &gfn);
    hvm_get_parameter(HVM_PARAM_CONSOLE_EVTCHN, &port);
    hvm_get_parameter(HVM_PARAM_STORE_EVTCHN, &store);
    ring = (struct xencons_interface *)(unsigned long)(gfn << 12);
    console_port = port;
    store_port = store;
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
        event_send(console_port);
        if (bytes)
            HYPERCALL(sched_op, SCHEDOP_yield, 0);
    }
}

void __attribute__((noreturn)) start(void)
{
    start_info = (struct hvm_start_info *)(unsigned long)boot_registers.ebx;
    wrmsr(MSR_HYPERCALL_PAGE, (unsigned long)hypercall_page); /* from then on shared_info is that of code of this width */
    console_init();
    print("TEST %s\n", program_name);
    traps_init();
    check(physmap_add(XENMAPSPACE_shared_info, 0, SHARED_INFO_ADDRESS >> 12) == 0, "map shared_info");
    shared_info = (struct shared_info *)SHARED_INFO_ADDRESS;
    events_init();
    program();
    finish();
}
