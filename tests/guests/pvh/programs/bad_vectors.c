/* @modes 64 pae 32
 * Vectors of exceptions for event upcalls: as on Xen a callback vector below 16 means none, and a vCPU's own vector below 16 is refused. */
#include "guest.h"

PROGRAM(bad_vectors)
{
    long port = event_bind_ipi(0);
    u64 value;

    event_unmask_locally(port);
    event_send(port);
    interrupts_on();
    for (unsigned vector = 0; vector < 16; vector++) {
        check_equal(hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, (u64)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | vector), 0, "a callback vector of exceptions");
        HYPERCALL(sched_op, SCHEDOP_yield, 0);
        check_equal(hvm_upcall_vector(0, vector), -XEN_EINVAL, "a vector of exceptions of its own");
    }
    check_equal(event_vcpu_info(0)->evtchn_upcall_pending, 1, "the event still waits");
    for (unsigned type = 0; type < 256; type++)
        if (type != HVM_PARAM_CALLBACK_TYPE_VECTOR)
            check(hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, (u64)type << 56 | 0xfff040) <= 0, "type %u of callback", type);
    check_equal(hvm_get_parameter(HVM_PARAM_CALLBACK_IRQ, &value), 0, "it can be read");
    check_equal(event_vcpu_info(0)->evtchn_upcall_pending, 1, "no upcall came");
    check_equal(hvm_upcall_vector(0xffffffff, 0x40), -XEN_ENOENT, "a vCPU far beyond all");
}
