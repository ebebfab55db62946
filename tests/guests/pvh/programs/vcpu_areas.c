/* @modes 64 pae 32
 * Areas of a vCPU in the guest's own memory: vcpu_info, run state, time; and what an HVM guest has of the other operations on vCPUs and devices. */
#include "guest.h"

#define CALLBACK 0xf3

static void upcall(struct registers *registers)
{
    (void)registers;
    event_take(0);
}

PROGRAM(vcpu_areas)
{
    static struct vcpu_runstate_info runstate __attribute__((aligned(64)));
    static struct vcpu_time_info time __attribute__((aligned(64)));
    struct vcpu_runstate_info asked;
    struct vcpu_register_runstate_memory_area runstate_area;
    struct vcpu_register_time_memory_area time_area;
    struct vcpu_info *page = page_alloc();
    struct vcpu_register_vcpu_info area = {.mfn = gfn_of(page), .offset = 128};
    struct physdev_eoi eoi = {.irq = 1};
    struct vcpu_get_physid physid;
    long port = event_bind_ipi(0);
    u32 version;

    check_equal(HYPERCALL(vcpu_op, VCPUOP_get_runstate_info, 0, &asked), 0, "VCPUOP_get_runstate_info");
    check_equal(asked.state, RUNSTATE_running, "it runs");
    runstate_area.addr.p = 0;
    set_xen_guest_handle(runstate_area.addr.h, &runstate);
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_runstate_memory_area, 0, &runstate_area), 0, "VCPUOP_register_runstate_memory_area");
    check_equal(runstate.state, RUNSTATE_running, "it is filled at once");
    clock_sleep(MILLISECONDS);
    check(*(volatile u64 *)&runstate.time[RUNSTATE_blocked] > 0, "it counts the time that was slept");
    time_area.addr.p = 0;
    set_xen_guest_handle(time_area.addr.h, &time);
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_vcpu_time_memory_area, 0, &time_area), 0, "VCPUOP_register_vcpu_time_memory_area");
    version = *(volatile u32 *)&time.version;
    check(version && !(version & 1), "it is filled at once");
    check_equal(time.tsc_to_system_mul, event_vcpu_info(0)->time.tsc_to_system_mul, "as in vcpu_info");

    area.offset = 4096 - sizeof(struct vcpu_info) + 8;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_vcpu_info, 0, &area), -XEN_EINVAL, "vcpu_info across a page");
    area.offset = 128;
    area.mfn = FREE_HOLE >> 12;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_vcpu_info, 0, &area), -XEN_EINVAL, "vcpu_info in a hole");
    area.mfn = gfn_of(page);
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_vcpu_info, 1, &area), -XEN_ENOENT, "of a vCPU that is not there");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_vcpu_info, 0, &area), 0, "VCPUOP_register_vcpu_info");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_register_vcpu_info, 0, &area), -XEN_EINVAL, "it can't be moved again");
    event_set_vcpu_info(0, (struct vcpu_info *)((u8 *)page + 128));
    trap_set_handler(CALLBACK, upcall);
    event_unmask_locally(port);
    hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, (u64)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | CALLBACK);
    interrupts_on();
    event_send(port);
    check_equal(event_counts[port], 1, "events arrive there");
    check(clock_now() > 0, "and the time");
    interrupts_off();
    check_equal(physmap_decrease(gfn_of(page)), 1, "its page is given back");
    event_send(port);
    check_equal(*(volatile u32 *)page, 0xffffffff, "the guest sees a hole, Xen keeps the frame");

    check_equal(HYPERCALL(vcpu_op, VCPUOP_get_physid, 0, &physid), -XEN_EINVAL, "VCPUOP_get_physid: it is not pinned");
    check_equal(HYPERCALL(vcpu_op, 77, 0, &physid), -XEN_ENOSYS, "an operation that there is not");
    check_equal(HYPERCALL(physdev_op, PHYSDEVOP_eoi, &eoi), -XEN_ENOSYS, "physical interrupts: a PVH domain has none");
    check_equal(HYPERCALL(physdev_op, PHYSDEVOP_set_iopl, &eoi), -XEN_ENOSYS, "nor an I/O privilege to ask for");
    check_equal(HYPERCALL(physdev_op, 999, &eoi), -XEN_ENOSYS, "nor anything else");
}
