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
unsigned checks_failed;

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

static const char *base_name(const char *path)
{
    const char *name = path;

    for (; *path; path++)
        if (*path == '/')
            name = path + 1;
    return name;
}

void check_report(bool passed, const char *file, int line, const char *format, ...)
{
    char text[256];
    va_list arguments;

    va_start(arguments, format);
    format_arguments(text, sizeof(text), format, arguments);
    va_end(arguments);
    if (passed) {
        print("ok %s\n", text);
        return;
    }
    checks_failed++;
    print("FAIL %s:%d %s\n", base_name(file), line, text);
}

void check_numbers(bool passed, const char *file, int line, const char *what, u64 got, const char *relation, u64 wanted)
{
    if (passed)
        check_report(true, file, line, "%s", what);
    else
        check_report(false, file, line, "%s: got 0x%lx (%ld), wanted %s 0x%lx (%ld)", what, got, (long)got, relation, wanted, (long)wanted);
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
