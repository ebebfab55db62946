/* The NMI callback: VCPUOP_send_nmi to oneself; a second NMI waits until the first one's iret. */
#include "guest.h"

static unsigned nmis, depth, deepest;
static u8 mask_in_handler;

static void on_nmi(struct registers *registers)
{
    (void)registers;
    depth++;
    if (depth > deepest)
        deepest = depth;
    mask_in_handler = event_vcpu_info()->evtchn_upcall_mask;
    if (++nmis == 2)
        hypercall_vcpu_op(VCPUOP_send_nmi, 0, NULL); /* must not nest */
    depth--;
}

PROGRAM(nmi)
{
    struct callback_unregister unregister = {.type = CALLBACKTYPE_nmi};

    trap_set_handler(VECTOR_NMI, on_nmi);
    events_enable();
    check_equal(callback_register(CALLBACKTYPE_nmi, 0, vector_entry_points[VECTOR_NMI]), 0, "register the NMI callback");
    check_equal(hypercall_vcpu_op(VCPUOP_send_nmi, 0, NULL), 0, "send_nmi to oneself");
    check_equal(nmis, 1, "delivered at once");
    check_equal(mask_in_handler, 1, "with upcalls masked");
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 0, "iret restored the mask");
    hypercall_vcpu_op(VCPUOP_send_nmi, 0, NULL);
    check_equal(nmis, 3, "an NMI sent in the handler comes after it");
    check_equal(deepest, 1, "not inside it");
    events_disable();
    hypercall_vcpu_op(VCPUOP_send_nmi, 0, NULL);
    check_equal(nmis, 4, "masked upcalls do not hold NMIs back");
    check_equal(hypercall_callback_op(CALLBACKOP_unregister, &unregister), 0, "unregister");
    check_equal(hypercall_vcpu_op(VCPUOP_send_nmi, 0, NULL), 0, "send_nmi without a callback");
    hypercall_sched_op(SCHEDOP_yield, NULL);
    check_equal(nmis, 4, "is dropped");
    check_equal(hypercall_vcpu_op(VCPUOP_send_nmi, 0, &unregister), -XEN_EINVAL, "send_nmi with an argument");
    check_equal(hypercall_vcpu_op(VCPUOP_send_nmi, 55, NULL), -XEN_ENOENT, "send_nmi to vCPU 55");

    struct xennmi_callback callback = {.handler_address = (unsigned long)vector_entry_points[VECTOR_NMI]};

    check_equal(hypercall_nmi_op(XENNMI_register_callback, &callback), 0, "nmi_op registers too");
    hypercall_vcpu_op(VCPUOP_send_nmi, 0, NULL);
    check_equal(nmis, 5, "and it is called");
    check_equal(hypercall_nmi_op(XENNMI_unregister_callback, NULL), 0, "nmi_op unregisters");
}
