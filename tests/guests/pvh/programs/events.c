/* @modes 64 pae 32
 * @vcpus 2
 * Event upcalls by the callback vector (HVM_PARAM_CALLBACK_IRQ), by a vCPU's own vector through its local APIC (HVMOP_set_evtchn_upcall_vector), and what
 * happens while interrupts are off. */
#include "guest.h"

#define CALLBACK 0xf3
#define OWN_VECTOR 0x61

static void upcall(struct registers *registers)
{
    event_take(0);
    interrupt_counts[registers->vector]++;
}

static void upcall_by_apic(struct registers *registers)
{
    event_take(0);
    interrupt_counts[registers->vector]++;
    apic_end_of_interrupt();
}

PROGRAM(events)
{
    long port = event_bind_ipi(0), other = event_bind_ipi(1);

    check(port > 0 && other > 0, "two event channels");
    trap_set_handler(CALLBACK, upcall);
    trap_set_handler(OWN_VECTOR, upcall_by_apic);
    event_unmask_locally(port);
    event_send(port);
    check_equal(event_vcpu_info(0)->evtchn_upcall_pending, 1, "an event waits");
    interrupts_on();
    check_equal(event_upcalls[0], 0, "without a callback vector there are no upcalls");
    interrupts_off();
    check_equal(hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, (u64)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | CALLBACK), 0, "set a callback vector");
    check_equal(event_upcalls[0], 0, "interrupts are off: not yet");
    interrupts_on();
    check_equal(event_upcalls[0], 1, "one upcall when they are on");
    check_equal(event_counts[port], 1, "of that port");
    event_send(port);
    check_equal(event_counts[port], 2, "another one, at once");
    asm volatile("cli");
    event_send(port);
    event_send(port);
    check_equal(event_counts[port], 2, "none with interrupts off");
    asm volatile("sti; cli; nop");
    check_equal(event_counts[port], 2, "nor in the shadow of sti");
    asm volatile("sti; nop; cli; nop");
    check_equal(event_counts[port], 3, "one for two events");
    event_send(port);
    event_vcpu_info(0)->evtchn_upcall_pending = 0;
    interrupts_on();
    check_equal(event_counts[port], 3, "an upcall that was taken back does not come");
    event_vcpu_info(0)->evtchn_upcall_pending = 1;
    event_vcpu_info(0)->evtchn_pending_sel = ~0UL;
    HYPERCALL(sched_op, SCHEDOP_yield, 0);
    check_equal(event_counts[port], 4, "the pending flag alone is the request");

    check_equal(hvm_upcall_vector(0, 15), -XEN_EINVAL, "a vector of exceptions");
    check_equal(hvm_upcall_vector(7, OWN_VECTOR), -XEN_ENOENT, "a vCPU that is not there");
    check_equal(hvm_upcall_vector(0, OWN_VECTOR), 0, "a vector of its own");
    apic_enable();
    event_send(port);
    check_equal(interrupt_counts[OWN_VECTOR], 1, "the upcall comes by that vector");
    check_equal(event_counts[port], 5, "the event is there");
    apic_write(APIC_TPR, 0x70);
    event_send(port);
    check_equal(interrupt_counts[OWN_VECTOR], 1, "it obeys the task priority");
    apic_write(APIC_TPR, 0);
    HYPERCALL(sched_op, SCHEDOP_yield, 0);
    check_equal(interrupt_counts[OWN_VECTOR], 2, "and comes when that is lower");
    event_unmask_locally(other);
    event_send(other);
    check(event_pending(other), "an event of the other vCPU waits for it");
    check_equal(interrupt_counts[OWN_VECTOR], 2, "and makes no upcall here");
}
