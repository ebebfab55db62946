/* Masks: of a port, of the vCPU; EVTCHNOP_unmask delivers what is pending; clearing the bit alone does not. */
#include "guest.h"

PROGRAM(event_mask)
{
    long a = event_alloc_unbound(DOMID_SELF), b = event_bind_interdomain(DOMID_SELF, a);

    event_clear(b);
    events_forget();
    events_enable();
    event_mask(b);
    check_equal(event_send(a), 0, "send to a masked port");
    check(event_pending(b), "the masked port becomes pending");
    check_equal(event_upcalls, 0, "without an upcall");
    check(!(event_vcpu_info()->evtchn_pending_sel & (1UL << (b / 64))), "and without its selector bit");
    event_unmask_locally(b);
    hypercall_sched_op(SCHEDOP_yield, NULL);
    check_equal(event_upcalls, 0, "clearing the mask bit alone brings no upcall");
    event_mask(b);
    check_equal(event_unmask(b), 0, "EVTCHNOP_unmask");
    check_equal(event_upcalls, 1, "brings the upcall");
    check(!event_masked(b), "and clears the mask bit");
    check_equal(event_counts[b], 1, "which finds the port");
    check_equal(event_unmask(b), 0, "unmask of a port that is not pending");
    check_equal(event_upcalls, 1, "brings none");

    event_mask(b);
    event_send(a);
    event_send(a);
    event_unmask(b);
    check_equal(event_counts[b], 2, "two events on a masked port are one");

    events_disable();
    event_send(a);
    event_send(a);
    check_equal(event_counts[b], 2, "no upcall while the vCPU's mask is set");
    events_enable();
    check_equal(event_counts[b], 3, "one when it is cleared");
    check_equal(event_interrupted.cs, FLAT_KERNEL_CS & ~3, "the frame shows kernel context (RPL 0)");
    check_equal(event_interrupted.saved_upcall_mask, 0, "and the mask before");
    check(event_interrupted.rflags & X86_EFLAGS_IF, "and IF");
    check_equal(event_vcpu_info()->evtchn_upcall_mask, 0, "iret restored the mask");
}
