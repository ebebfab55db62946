/* @vcpus 2
 * @timeout 60
 * Code that one vCPU changes and the other runs. After the flag that tells of a change has been seen and a serialising instruction has been
 * executed, only the new code runs; a change in Linux's way (INT3, the rest, the first octet) never shows a mixture. */
#include "guest.h"

#define SITE_LENGTH 5

static u8 window[2 * PAGE_SIZE] page_aligned, alias[2 * PAGE_SIZE] page_aligned;
static volatile u64 epoch, sync_wanted, sync_done, stop;
static volatile u8 *site, *site_alias;
static volatile u64 stale, torn, calls, hits, changes_seen;
static u64 rounds;

static void serialise_by_cpuid(void)
{
    u32 eax = 0, ebx, ecx = 0, edx;

    asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx)::"memory");
}

/* Linux's sync_core(): an interrupt return to the next instruction. */
static void serialise_by_iret(void)
{
    asm volatile("mov %%ss, %%eax\n push %%rax\n"
                 "lea 8(%%rsp), %%rax\n push %%rax\n"
                 "pushfq\n"
                 "mov %%cs, %%eax\n push %%rax\n"
                 "lea 1f(%%rip), %%rax\n push %%rax\n"
                 "iretq\n"
                 "1:" ::: "rax", "memory", "cc");
}

static void (*serialise)(void);

static u32 call_site(void)
{
    u32 result;

    asm volatile("call *%1" : "=a"(result) : "r"(site) : "memory", "cc");
    return result;
}

/* A call that began after this did has ended. */
static void wait_for_call(void)
{
    u64 wanted = calls + 2;
    unsigned turns = 0;

    while (calls < wanted)
        smp_relax(&turns);
}

/* ------------------------------------------------------------------ a flag and a serialising instruction */

/* A store across two pages may be seen octet by octet, so there each octet is a number of its own, modulo 256. */
static bool split;

static u32 encode(u64 number)
{
    return split ? (number & 0xff) * 0x01010101 : number;
}

/* Whether the number, or one of its octets, comes before `number`; for octets the two must be less than 128 apart. */
static bool comes_before(u32 result, u64 number)
{
    bool before = false;

    if (!split)
        return result < number;
    for (unsigned i = 0; i < sizeof(result); i++)
        before |= (int8_t)((u8)(result >> 8 * i) - (u8)number) < 0;
    return before;
}

static bool comes_after(u32 result, u64 number)
{
    bool after = false;

    if (!split)
        return result > number;
    for (unsigned i = 0; i < sizeof(result); i++)
        after |= (int8_t)((u8)(result >> 8 * i) - (u8)number) > 0;
    return after;
}

static void run_numbers(unsigned vcpu)
{
    u32 last = 0;

    (void)vcpu;
    while (!stop) {
        u64 before = epoch, after;
        u32 result;

        if (serialise)
            serialise();
        result = call_site();
        after = epoch;
        calls++;
        changes_seen += result != last;
        last = result;
        if (split && (!serialise || after - before > 100))
            continue; /* how old the octets may be has no bound */
        stale += serialise && comes_before(result, before);
        torn += comes_after(result, after + 1);
    }
}

static void test_numbers(const char *name, void (*how)(void))
{
    static const u8 code[] = {0xb8, 0, 0, 0, 0, 0xc3}; /* mov $0, %eax; ret */

    serialise = how;
    epoch = stop = stale = torn = calls = changes_seen = 0;
    memcpy((void *)site_alias, code, sizeof(code));
    smp_start(1, run_numbers);
    for (u64 n = 1; n <= rounds; n++) {
        *(volatile u32 *)(site_alias + 1) = encode(n);
        epoch = n;
        for (unsigned delay = n % 64; delay; delay--)
            barrier();
        if (n % 16 == 0)
            wait_for_call();
    }
    wait_for_call();
    check_equal(call_site(), encode(rounds), "the writer runs what it wrote");
    stop = 1;
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
    print("MET %s: %lu changes, %lu calls, %lu with another number\n", name, rounds, calls, changes_seen);
    check(stale == 0, "%s: %lu calls of code that was older than what had been seen", name, stale);
    check(torn == 0, "%s: %lu calls gave what nobody had written yet", name, torn);
    check(changes_seen > 1, "%s: it changes while it runs", name);
}

/* ------------------------------------------------------------------ INT3, as kernels patch their code */

/* The site holds a NOP of five octets (1) or a jump (2). Both ends return their number. */
static const u8 nop[] = {0x0f, 0x1f, 0x44, 0x00, 0x00}, jump[] = {0xe9, 6, 0, 0, 0};
static const u8 ends[] = {0xb8, 1, 0, 0, 0, 0xc3, 0xb8, 2, 0, 0, 0, 0xc3};

static void breakpoint(struct registers *registers)
{
    hits++;
    registers->rip = (u64)site + SITE_LENGTH; /* as if it were the NOP */
}

static void run_site(unsigned vcpu)
{
    (void)vcpu;
    while (!stop) {
        u64 before = epoch, wanted;
        u32 result = call_site();

        calls++;
        torn += result != 1 && result != 2;
        /* An even epoch is a state of rest: 0 the NOP, 2 the jump, and so on. */
        stale += !(before & 1) && epoch == before && result != 1 + (before / 2 & 1);
        wanted = sync_wanted;
        if (sync_done != wanted) {
            serialise_by_iret();
            sync_done = wanted;
        }
    }
}

/* What Linux's on_each_cpu(do_sync_core) does. */
static void sync_others(void)
{
    unsigned turns = 0;

    sync_wanted++;
    while (sync_done != sync_wanted)
        smp_relax(&turns);
}

static void poke(const u8 *instruction)
{
    site_alias[0] = 0xcc;
    sync_others();
    for (unsigned i = 1; i < SITE_LENGTH; i++)
        site_alias[i] = instruction[i];
    sync_others();
    site_alias[0] = instruction[0];
    sync_others();
}

static void test_pokes(const char *name)
{
    epoch = stop = stale = torn = calls = hits = sync_wanted = sync_done = 0;
    memcpy((void *)site_alias, nop, sizeof(nop));
    memcpy((void *)site_alias + SITE_LENGTH, ends, sizeof(ends));
    trap_set_handler(VECTOR_BP, breakpoint);
    smp_start(1, run_site);
    for (u64 n = 0; n < rounds; n++) {
        epoch++;
        poke(n & 1 ? nop : jump);
        epoch++;
        if (n % 16 == 0)
            wait_for_call(); /* now and then it runs in peace */
    }
    stop = 1;
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
    trap_set_handler(VECTOR_BP, NULL);
    print("MET %s: %lu pokes, %lu calls, %lu met INT3\n", name, rounds, calls, hits);
    check(torn == 0, "%s: %lu calls ran a mixture", name, torn);
    check(stale == 0, "%s: %lu calls ran what had been replaced", name, stale);
    check(hits > 0, "%s: some calls meet the breakpoint", name);
}

PROGRAM(code_patching)
{
    static const struct {
        unsigned offset;
        const char *numbers, *unserialised, *pokes;
    } places[] = {
        {64, "number, CPUID", "number, nothing", "poke"},
        {PAGE_SIZE - 3, "number across pages, IRET", "number across pages, nothing", "poke across pages"},
    };

    for (unsigned i = 0; i < 2; i++) {
        u8 *page = page_alloc();

        map_page(window + i * PAGE_SIZE, page, PTE_CODE);
        map_page(alias + i * PAGE_SIZE, page, PTE_DATA);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        site = window + places[i].offset;
        site_alias = alias + places[i].offset;
        split = places[i].offset + 1 + sizeof(u32) > PAGE_SIZE;
        rounds = smp_scaled(4000);
        test_numbers(places[i].numbers, i ? serialise_by_iret : serialise_by_cpuid);
        test_numbers(places[i].unserialised, NULL);
        rounds = smp_scaled(1000);
        test_pokes(places[i].pokes);
    }
}
