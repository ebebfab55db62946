/* What a guest sees of its tsc_mode, which `mode=` on the command line tells: Xen's time leaf, the counter, and the scale of system time. */
#include "guest.h"

#define TIME_LEAF 0x40000003
#define EMULATED 1

struct leaf {
    u32 eax, ebx, ecx, edx;
};

USER_CODE(user_rdtsc, "rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rdi\n syscall");
USER_CODE(user_rdtscp, "rdtscp\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rdi\n mov %rcx, %rsi\n syscall");
USER_CODE(user_fault, "rdtsc\n nop");

static struct leaf leaf(u32 number, u32 subleaf)
{
    struct leaf found = {.eax = number, .ecx = subleaf};

    asm volatile(XEN_EMULATE_PREFIX "cpuid" : "+a"(found.eax), "=b"(found.ebx), "+c"(found.ecx), "=d"(found.edx));
    return found;
}

static unsigned wanted_mode(void)
{
    const char *line = (const char *)start_info->cmd_line;

    return line[0] == 'm' ? line[5] - '0' : 0;
}

static u64 scaled(u64 ticks, u32 multiplier, int shift)
{
    ticks = shift >= 0 ? ticks << shift : ticks >> -shift;
    return (u64)((unsigned __int128)ticks * multiplier >> 32);
}

static void check_leaf(unsigned mode, bool emulated)
{
    struct leaf features = leaf(TIME_LEAF, 0), offset = leaf(TIME_LEAF, 1), host = leaf(TIME_LEAF, 2);
    u64 second = scaled((u64)features.ecx * 1000, offset.ecx, (int)offset.edx);

    check_equal(features.eax & EMULATED, emulated, "EAX bit 0: emulated");
    check_equal(features.ebx, mode, "EBX: the mode");
    check_equal(features.edx, 1, "EDX: the first incarnation");
    check_equal(features.ecx, host.eax, "ECX: the frequency of the host's counter, which is subleaf 2");
    check(second > 999999000 && second <= 1000000000, "subleaf 1: the scale makes %lu ns of a second's ticks", second);
    if (emulated)
        check_equal((u64)offset.ebx << 32 | offset.eax, 0, "subleaf 1: no offset");
    check_equal(leaf(0x80000007, 0).edx >> 8 & 1, mode == 1, "invariant only if emulated");
    check_equal(leaf(TIME_LEAF, 3).ecx, 0, "no subleaf 3");
}

static void check_counter(bool emulated)
{
    u64 last = rdtsc(), same = 0, backwards = 0, value;
    u32 aux, low, high;

    for (int i = 0; i < 2000; i++) {
        value = rdtsc();
        backwards += value < last;
        same += value == last;
        last = value;
    }
    check_equal(backwards, 0, "never backwards");
    if (emulated)
        check_equal(same, 0, "emulated: never the same twice");
    asm volatile("rdtscp" : "=a"(low), "=d"(high), "=c"(aux));
    value = (u64)high << 32 | low;
    check(value >= last && value < rdtsc(), "RDTSCP reads the same counter");
    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(0x10));
    value = (u64)high << 32 | low;
    check(value > last && value < rdtsc(), "so does MSR 0x10");
    if (emulated)
        check(value < 60UL * 1000 * leaf(TIME_LEAF, 0).ecx, "emulated: it began at 0 when the domain was made");
}

/* system_time at the counter's reading, twice, a while apart: by vcpu_time_info, and against the clock of timers. */
static void check_clock(void)
{
    struct vcpu_time_info *info = &shared_info->vcpu_info[0].time;
    u64 first = clock_now(), second;

    clock_sleep(20 * MILLISECONDS);
    second = clock_now();
    check(second - first >= 20 * MILLISECONDS, "a sleep of 20 ms takes %lu ns by the clock", second - first);
    check(second - first < 5000 * MILLISECONDS, "not a multiple");
    check(rdtsc() - info->tsc_timestamp < 1UL << 60, "the time stamp is not in the future");
}

static void check_user(void)
{
    struct trap_record trap;
    u64 before = rdtsc(), cr4;

    user_init();
    trap = user_run_code(user_rdtsc);
    check(trap.registers.rdi > before && trap.registers.rdi < rdtsc(), "RDTSC in user mode");
    before = rdtsc();
    trap = user_run_code(user_rdtscp);
    check(trap.registers.rdi > before && trap.registers.rdi < rdtsc(), "RDTSCP in user mode");
    asm volatile("mov %%cr4, %0" : "=r"(cr4));
    asm volatile("mov %0, %%cr4" ::"r"(cr4 | 4));
    trap = user_run_code(user_fault);
    check_trap(trap, VECTOR_GP, 0, "RDTSC in user mode with CR4.TSD");
    check(rdtsc() > before, "the kernel may");
    asm volatile("mov %0, %%cr4" ::"r"(cr4));
    trap_expect(VECTOR_DB);
    trap = TRAP_OF("pushf; orl $0x100, (%%rsp); popf; rdtsc; nop; pushf; andl $~0x100, (%%rsp); popf" ::: "rax", "rdx", "cc", "memory");
    trap_unexpect(VECTOR_DB);
    check(trap.count >= 2, "single steps over RDTSC: %u traps", trap.count);
}

PROGRAM(tsc_mode)
{
    const unsigned mode = wanted_mode();
    const bool emulated = leaf(TIME_LEAF, 0).eax & EMULATED;

    check(mode == 0 || emulated == (mode == 1), "emulated in mode 1, not in mode 2");
    check_leaf(mode, emulated);
    check_counter(emulated);
    check_clock();
    check_user();
}
