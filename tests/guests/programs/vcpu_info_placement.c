/* VCPUOP_register_vcpu_info moves vcpu_info into guest memory; everything is marked pending; it can be done once. */
#include "guest.h"

PROGRAM(vcpu_info_placement)
{
    u8 *page = page_alloc();
    struct vcpu_info *placed = (struct vcpu_info *)(page + 128);
    struct vcpu_register_vcpu_info argument = {.mfn = virt_to_mfn(page), .offset = PAGE_SIZE - 8};
    long port = event_bind_virq(VIRQ_TIMER, 0), loop, other;

    check_equal(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &argument), -XEN_EINVAL, "a structure that crosses a page boundary");
    argument = (struct vcpu_register_vcpu_info){.mfn = 0xffffffffff, .offset = 0};
    check_equal(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &argument), -XEN_EINVAL, "a frame that does not exist");
    argument = (struct vcpu_register_vcpu_info){.mfn = virt_to_mfn((void *)start_info->pt_base), .offset = 0};
    check_equal(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &argument), -XEN_EINVAL, "a page-table page");
    argument = (struct vcpu_register_vcpu_info){.mfn = virt_to_mfn(page), .offset = 128};
    check_equal(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &argument), 0, "register_vcpu_info");
    check_equal(placed->evtchn_upcall_mask, 1, "the mask moved with it");
    check_equal(placed->evtchn_upcall_pending, 1, "an upcall is pending, so that nothing is lost");
    check_equal(placed->evtchn_pending_sel, ~0UL, "in every word");
    check(placed->time.tsc_to_system_mul, "the time is there");
    check_equal(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &argument), -XEN_EINVAL, "a second time");

    event_set_vcpu_info(placed);
    loop = event_alloc_unbound(DOMID_SELF);
    other = event_bind_interdomain(DOMID_SELF, loop);
    events_forget();
    event_clear(other);
    event_send(loop);
    check_equal(placed->evtchn_upcall_pending, 1, "events are reported in the new place");
    events_enable();
    check_equal(event_counts[other], 1, "and delivered by its mask");
    events_disable();
    u64 before = clock_read(&placed->time);

    hypercall_set_timer_op(before + 3 * MILLISECONDS);
    event_wait(port, SECONDS);
    check(clock_read(&placed->time) - before >= 3 * MILLISECONDS, "its time goes on");
    TRAP_OF(MAY_FAULT("movb (%0), %%al")::"r"(UNMAPPED + 5) : "rax", "memory");
    check_equal(placed->arch.cr2, UNMAPPED + 5, "and CR2 appears there");
}
