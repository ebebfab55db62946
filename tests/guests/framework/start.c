#include "start.h"

#include "check.h"
#include "console.h"
#include "event.h"
#include "hypercall.h"
#include "paging.h"
#include "trap.h"

struct boot_registers boot_registers;
struct start_info *start_info;
struct shared_info *shared_info;

static u8 shared_info_slot[PAGE_SIZE] page_aligned;

long shutdown(unsigned reason)
{
    struct sched_shutdown argument = {.reason = reason};

    return HYPERCALL(sched_op, SCHEDOP_shutdown, &argument, virt_to_mfn(start_info));
}

void finish(void)
{
    print("RESULT %s\n", checks_failed ? "FAIL" : "PASS");
    for (;;)
        shutdown(SHUTDOWN_poweroff);
}

void __attribute__((noreturn)) start(void)
{
    start_info = (struct start_info *)boot_registers.rsi;
    console_init();
    print("TEST %s\n", program_name);
    traps_init();
    if (map_frame(shared_info_slot, start_info->shared_info >> 12, PTE_DATA))
        print("FAIL cannot map shared_info\n"), checks_failed++;
    shared_info = (struct shared_info *)shared_info_slot;
    events_init();
    program();
    finish();
}
