/* get_runstate_info and the registered area. */
#include "guest.h"

PROGRAM(runstate)
{
    static struct vcpu_runstate_info area;
    struct vcpu_runstate_info info = {.state = 77}, later;
    struct vcpu_register_runstate_memory_area argument = {.addr.v = &area};
    u64 now, sum = 0, from[2], to[2];

    from[0] = clock_now();
    check_equal(hypercall_vcpu_op(VCPUOP_get_runstate_info, 0, &info), 0, "get_runstate_info");
    from[1] = clock_now();
    check_equal(info.state, RUNSTATE_running, "running");
    now = clock_now();
    check(info.state_entry_time <= now, "entered before now");
    clock_sleep(20 * MILLISECONDS);
    to[0] = clock_now();
    hypercall_vcpu_op(VCPUOP_get_runstate_info, 0, &later);
    to[1] = clock_now();
    check(later.time[RUNSTATE_blocked] > info.time[RUNSTATE_blocked], "sleep counts as blocked (%lu us)",
          (later.time[RUNSTATE_blocked] - info.time[RUNSTATE_blocked]) / 1000);
    for (int state = 0; state < 4; state++)
        sum += later.time[state] - info.time[state];
    check(sum >= to[0] - from[1] && sum <= to[1] - from[0], "the times of all states add up to system time (%lu us of %lu to %lu)", sum / 1000,
          (to[0] - from[1]) / 1000, (to[1] - from[0]) / 1000);
    check(later.time[RUNSTATE_running] >= info.time[RUNSTATE_running], "running time does not shrink");

    area.state = 77;
    check_equal(hypercall_vcpu_op(VCPUOP_register_runstate_memory_area, 0, &argument), 0, "register_runstate_memory_area");
    check_equal(*(volatile int *)&area.state, RUNSTATE_running, "the area is filled at once");
    u64 blocked = area.time[RUNSTATE_blocked];

    clock_sleep(10 * MILLISECONDS);
    check_equal(*(volatile int *)&area.state, RUNSTATE_running, "state in the area");
    check(*(volatile u64 *)&area.time[RUNSTATE_blocked] > blocked, "and it is kept up to date");
    check_equal(area.state_entry_time >> 63, 0, "no update flag unless asked for");
    check_equal(hypercall_vcpu_op(VCPUOP_get_runstate_info, 55, &info), -XEN_ENOENT, "of vCPU 55");
}
