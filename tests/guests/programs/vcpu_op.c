/* vcpu_op on a domain of one vCPU. */
#include "guest.h"

PROGRAM(vcpu_op)
{
    struct vcpu_get_physid physid;
    static struct vcpu_guest_context context;
    static struct vcpu_time_info time;
    struct vcpu_register_time_memory_area area = {.addr.v = &time};

    check_equal(hypercall_vcpu_op(VCPUOP_is_up, 0, NULL), 1, "is_up");
    check_equal(hypercall_vcpu_op(VCPUOP_is_up, 1, NULL), -XEN_ENOENT, "is_up of vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_is_up, ~0U, NULL), -XEN_ENOENT, "is_up of vCPU 2^32-1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 0, NULL), 0, "up of a vCPU that is up");
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 0, &context), -XEN_EEXIST, "initialise of one that is initialised");
    check_equal(hypercall_vcpu_op(VCPUOP_get_physid, 0, &physid), -XEN_EINVAL, "get_physid is for pinned vCPUs of domain 0");
    check_equal(hypercall_vcpu_op(99, 0, NULL), -XEN_ENOSYS, "an unknown command");
    check_equal(hypercall_vcpu_op(VCPUOP_register_vcpu_time_memory_area, 0, &area), 0, "register_vcpu_time_memory_area");
    check(*(volatile u32 *)&time.tsc_to_system_mul, "it is filled");
    u64 a = clock_read(&time), b = clock_now();

    check(b >= a && b - a < SECONDS, "with the same clock");
}
