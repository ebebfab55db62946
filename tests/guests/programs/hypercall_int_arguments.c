/* What Xen declares as int or unsigned int is 32 bits wide: whatever stands above them in the register means nothing. Pointers and longs
 * are whole. */
#include "guest.h"

#define GARBAGE 0xdeadbeef00000000UL

PROGRAM(hypercall_int_arguments)
{
    struct trap_record trap;
    struct multicall_entry call = {.op = __HYPERVISOR_xen_version, .args = {GARBAGE | XENVER_version}};
    unsigned version = hypercall_xen_version(XENVER_version, NULL);

    check_equal(hypercall(__HYPERVISOR_xen_version, GARBAGE | XENVER_version, 0, 0, 0, 0), version, "xen_version");
    check_equal(hypercall(__HYPERVISOR_multicall, (u64)&call, GARBAGE | 1, 0, 0, 0), 0, "multicall");
    check_equal(call.result, version, "and the call in it");
    check_equal(hypercall(__HYPERVISOR_fpu_taskswitch, GARBAGE, 0, 0, 0, 0), 0, "fpu_taskswitch(0)");
    trap = TRAP_OF(MAY_FAULT("fninit")::: "memory");
    check_equal(trap.kind, KIND_NONE, "is not fpu_taskswitch(1)");
    check_equal(hypercall(__HYPERVISOR_sched_op, GARBAGE | SCHEDOP_yield, 0, 0, 0, 0), 0, "sched_op");
    check_equal(hypercall(__HYPERVISOR_vcpu_op, GARBAGE | VCPUOP_is_up, GARBAGE, 0, 0, 0), 1, "vcpu_op");
    check_equal(hypercall(__HYPERVISOR_get_debugreg, GARBAGE | 7, 0, 0, 0, 0), 0x400, "get_debugreg");
    check_equal(hypercall(__HYPERVISOR_set_segment_base, GARBAGE | SEGBASE_FS, 0x1000, 0, 0, 0), 0, "set_segment_base");
    check_equal(hypercall(__HYPERVISOR_set_segment_base, SEGBASE_FS, NON_CANONICAL, 0, 0, 0), -XEN_EINVAL, "its base is a long");
    check_equal(hypercall(__HYPERVISOR_xen_version, XENVER_extraversion, GARBAGE, 0, 0, 0), -XEN_EFAULT, "a pointer is whole");
}
