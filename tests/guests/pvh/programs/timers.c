/* @modes 64
 * The local APIC's timer: one-shot, periodic, by TSC deadline; its counts; and Xen's own timers of a vCPU. */
#include "guest.h"

#define TICK 0x51
#define CALLBACK 0xf3

static void upcall(struct registers *registers)
{
    (void)registers;
    event_take(0);
}

PROGRAM(timers)
{
    u64 started;
    long port = event_bind_virq(VIRQ_TIMER, 0);
    struct vcpu_set_singleshot_timer single = {0};
    struct vcpu_set_periodic_timer periodic = {.period_ns = 2 * MILLISECONDS};
    unsigned count;

    interrupt_expect(TICK);
    apic_enable();
    interrupts_on();
    apic_write(APIC_TIMER_DIVIDE, 0xb); /* by 1 */
    apic_write(APIC_LVT_TIMER, TICK);
    started = clock_now();
    apic_write(APIC_TIMER_INITIAL, 200000); /* 10 ns each */
    check(apic_read(APIC_TIMER_CURRENT) <= 200000, "the current count is below the initial one");
    check(WAIT_FOR(interrupt_counts[TICK] == 1), "one-shot: an interrupt");
    check(clock_now() - started >= 2 * MILLISECONDS - 50 * MICROSECONDS, "not before 2 ms are over");
    check_equal(apic_read(APIC_TIMER_CURRENT), 0, "the count has ended");
    apic_write(APIC_TIMER_INITIAL, 1000000000);
    apic_write(APIC_TIMER_INITIAL, 0);
    check_equal(apic_read(APIC_TIMER_CURRENT), 0, "0 stops it");
    apic_write(APIC_LVT_TIMER, TICK | APIC_MASKED);
    apic_write(APIC_TIMER_INITIAL, 10000);
    WAIT_FOR(apic_read(APIC_TIMER_CURRENT) == 0);
    check_equal(interrupt_counts[TICK], 1, "masked: no interrupt");
    apic_write(APIC_TIMER_DIVIDE, 0x0); /* by 2 */
    apic_write(APIC_LVT_TIMER, TICK | APIC_PERIODIC);
    apic_write(APIC_TIMER_INITIAL, 50000); /* 1 ms */
    check(WAIT_FOR(interrupt_counts[TICK] >= 6), "periodic: many interrupts");
    check(apic_read(APIC_TIMER_CURRENT) <= 50000, "it counts again and again");
    apic_write(APIC_TIMER_INITIAL, 0);
    count = interrupt_counts[TICK];
    apic_write(APIC_LVT_TIMER, TICK | APIC_DEADLINE);
    check_equal(rdmsr(MSR_TSC_DEADLINE), 0, "no deadline");
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 2000000);
    check(WAIT_FOR(interrupt_counts[TICK] > count), "TSC deadline: an interrupt");
    check_equal(rdmsr(MSR_TSC_DEADLINE), 0, "the deadline is gone");
    wrmsr(MSR_TSC_DEADLINE, rdtsc() - 1000);
    check(WAIT_FOR(interrupt_counts[TICK] > count + 1), "a deadline in the past: at once");
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + (1ULL << 40));
    check(rdmsr(MSR_TSC_DEADLINE) > rdtsc(), "a deadline far away");
    wrmsr(MSR_TSC_DEADLINE, 0);
    check_equal(rdmsr(MSR_TSC_DEADLINE), 0, "taken back");
    apic_write(APIC_TIMER_INITIAL, 1000);
    check_equal(apic_read(APIC_TIMER_CURRENT), 0, "the count means nothing in deadline mode");
    interrupts_off();
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000);
    asm volatile("sti; hlt; cli");
    check_equal(interrupt_counts[TICK], count + 3, "it ends HLT");

    trap_set_handler(CALLBACK, upcall);
    hvm_set_parameter(HVM_PARAM_CALLBACK_IRQ, (u64)HVM_PARAM_CALLBACK_TYPE_VECTOR << 56 | CALLBACK);
    event_unmask_locally(port);
    interrupts_on();
    single.timeout_abs_ns = clock_now() + MILLISECONDS;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_set_singleshot_timer, 0, &single), 0, "VCPUOP_set_singleshot_timer");
    check(WAIT_FOR(event_counts[port] == 1), "VIRQ_TIMER");
    check(clock_now() >= single.timeout_abs_ns, "not too early");
    single.flags = VCPU_SSHOTTMR_future;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_set_singleshot_timer, 0, &single), -XEN_ETIME, "a deadline in the past that must not be");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_set_periodic_timer, 0, &periodic), 0, "VCPUOP_set_periodic_timer");
    check(WAIT_FOR(event_counts[port] >= 4), "VIRQ_TIMER again and again");
    check_equal(HYPERCALL(vcpu_op, VCPUOP_stop_periodic_timer, 0), 0, "VCPUOP_stop_periodic_timer");
    periodic.period_ns = 1;
    check_equal(HYPERCALL(vcpu_op, VCPUOP_set_periodic_timer, 0, &periodic), -XEN_EINVAL, "a period of 1 ns");
    interrupts_off();
    count = event_counts[port];
    HYPERCALL(set_timer_op, clock_now() + MILLISECONDS);
    asm volatile("sti; hlt; cli");
    check(event_counts[port] > count, "set_timer_op ends HLT");
}
