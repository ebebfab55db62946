/* @modes 64
 * @vcpus 3
 * The time-stamp counter: written by a vCPU it counts from there, for that vCPU alone, in RDTSC, RDTSCP and MSR 0x10; the clock of
 * vcpu_time_info and the APIC's deadlines know; a vCPU that starts has the boot processor's; CR4.TSD; Xen's time leaf. */
#include "guest.h"

#define TIME_LEAF 0x40000003
#define FAR_AWAY (1ULL << 50)
#define TICK 0x51

static volatile u64 seen[3];

static void look(unsigned vcpu)
{
    seen[vcpu] = rdtsc();
}

static u64 rdtscp(void)
{
    u32 low, high, aux;

    asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
    return (u64)high << 32 | low;
}

static bool near(u64 count, u64 from)
{
    return count - from < 1ULL << 36;
}

static void written(u64 value)
{
    u64 before = clock_now(), count = interrupt_counts[TICK];

    wrmsr(MSR_TSC, value);
    check(near(rdtsc(), value), "RDTSC counts from %lx: %lx", value, rdtsc());
    check(near(rdtscp(), value), "so does RDTSCP");
    check(near(rdmsr(MSR_TSC), value), "and MSR 0x10");
    check(clock_now() >= before && clock_now() - before < 10 * SECONDS, "the clock goes on: %lu ns", clock_now() - before);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 2000000);
    check(WAIT_FOR(interrupt_counts[TICK] == count + 1), "a deadline of this counter comes");
}

PROGRAM(time_stamp_counter)
{
    struct trap_record trap;
    u32 leaf[4];

    cpuid(TIME_LEAF, 0, leaf);
    check(leaf[2] > 100000 && leaf[3] == 1, "Xen's time leaf: %u kHz", leaf[2]);
    check(rdtsc() < 60ULL * 1000 * leaf[2], "it began at 0 when the domain was made");
    interrupt_expect(TICK);
    apic_enable();
    apic_write(APIC_LVT_TIMER, TICK | APIC_DEADLINE);
    interrupts_on();
    smp_start(1, look);
    check(smp_finished(1) && near(rdtsc(), seen[1]), "another vCPU reads the same");
    written(5);
    written(FAR_AWAY);
    written(1ULL << 63);
    written(FAR_AWAY);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + (1ULL << 45));
    check(rdmsr(MSR_TSC_DEADLINE) > rdtsc(), "a deadline far away");
    wrmsr(MSR_TSC_DEADLINE, 0);
    smp_start_by_ipi(2, look);
    check(smp_finished(2) && near(seen[2], FAR_AWAY), "a vCPU that starts has the boot processor's: %lx", seen[2]);
    write_cr4(read_cr4() | CR4_TSD);
    trap = TRAP_OF(MAY_FAULT("rdtsc")::: "rax", "rdx", "memory");
    check_equal(trap.kind, KIND_NONE, "CR4.TSD: the kernel may read it");
    write_cr4(read_cr4() & ~CR4_TSD);
    interrupts_off();
}
