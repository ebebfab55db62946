/* @vcpus 3
 * @timeout 60
 * After a flush of all TLBs no vCPU uses an old translation: pages that are exchanged, taken away or write-protected, level 1 tables that are
 * exchanged, entries that are written by emulated stores. */
#include "guest.h"

#define VCPUS 3
#define POISON (1UL << 63)
#define NOTHING (~0UL)

/* Has tables of its own. */
#define WINDOW 0xffffc90000000000UL

static volatile u64 *const window = (volatile u64 *)WINDOW;
static volatile u64 epoch, stop, wrong, looks, faults, news;
static u64 rounds, changes;
static u64 *frames[2]; /* pages that are mapped at `window` in turn; this is where they always are */
static unsigned long everybody = (1 << VCPUS) - 1;

/* What is at the window, or NOTHING if it is not mapped. */
static u64 look(void)
{
    u64 value = NOTHING;

    asm volatile(MAY_FAULT("movq %1, %0") : "+r"(value) : "m"(*window));
    return value;
}

/* ------------------------------------------------------------------ readers */

/* Pages have a number that grows; who has seen the epoch must not see an older page. */
static void watch_numbers(unsigned vcpu)
{
    u64 last = 0;

    (void)vcpu;
    while (!stop) {
        u64 before = epoch, value = look();

        __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
        if (value < before || value & POISON)
            __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
        if (value != last)
            __atomic_fetch_add(&news, 1, __ATOMIC_RELAXED);
        last = value;
    }
}

/* At odd epochs there is no page, at even ones there is; with POISON it is changing. */
static void watch_absence(unsigned vcpu)
{
    (void)vcpu;
    while (!stop) {
        u64 before = epoch, value = look();

        __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
        if (value == NOTHING)
            __atomic_fetch_add(&faults, 1, __ATOMIC_RELAXED);
        else
            __atomic_fetch_add(&news, 1, __ATOMIC_RELAXED);
        barrier();
        if (before == epoch && !(before & POISON) && (before & 1) != (value == NOTHING))
            __atomic_fetch_add(&wrong, 1, __ATOMIC_RELAXED);
    }
}

static void write_always(unsigned vcpu)
{
    for (u64 n = 0; !stop; n++) {
        asm volatile(MAY_FAULT("movq %1, %0") : "=m"(window[vcpu]) : "r"(n));
        __atomic_fetch_add(&looks, 1, __ATOMIC_RELAXED);
    }
}

/* ------------------------------------------------------------------ the ways to change a translation and to flush */

static void flush(u64 n)
{
    struct mmuext_op operation = {.arg1.linear_addr = WINDOW};
    static const unsigned commands[] = {MMUEXT_TLB_FLUSH_ALL, MMUEXT_INVLPG_ALL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI};

    operation.cmd = commands[n % ARRAY_SIZE(commands)];
    if (operation.cmd == MMUEXT_TLB_FLUSH_MULTI || operation.cmd == MMUEXT_INVLPG_MULTI)
        set_xen_guest_handle(operation.arg2.vcpumask, &everybody);
    hypercall_mmuext_op(&operation, 1, NULL, DOMID_SELF);
}

static void set_by_va_mapping(u64 n, u64 entry)
{
    (void)n;
    hypercall_update_va_mapping(WINDOW, entry, UVMF_TLB_FLUSH | UVMF_ALL);
}

static void set_by_va_mapping_some(u64 n, u64 entry)
{
    (void)n;
    hypercall_update_va_mapping(WINDOW, entry, UVMF_INVLPG | (unsigned long)&everybody);
}

static void set_by_mmu_update(u64 n, u64 entry)
{
    pte_write(pte_of(WINDOW, 1), entry);
    flush(n);
}

static void set_by_store(u64 n, u64 entry)
{
    *(volatile u64 *)pte_of(WINDOW, 1) = entry; /* the table is mapped read-only: Xen does it */
    flush(n);
}

static u64 *spare_table; /* a second level 1 table for the window */

/* Change the table that is not in use, and exchange it for the one that is. */
static void set_by_table(u64 n, u64 entry)
{
    u64 *upper = pte_of(WINDOW, 2), *table = pte_of(WINDOW, 1);
    u64 *other = spare_table;

    pte_write(other, entry);
    spare_table = (u64 *)((unsigned long)table & PAGE_MASK);
    pte_write(upper, make_pte(virt_to_mfn(other), PTE_TABLE));
    flush(n);
}

/* ------------------------------------------------------------------ the tests */

static void start(smp_function_t *function)
{
    epoch = stop = wrong = looks = faults = news = 0;
    for (unsigned vcpu = 1; vcpu < VCPUS; vcpu++)
        smp_start(vcpu, function);
}

/* As often as asked for, and on a busy host until the others have met something new a few times. */
static bool goes_on(u64 n)
{
    changes = n;
    return n < rounds || (news < 5 && n < 20 * rounds);
}

static void end(const char *name, const char *what)
{
    u64 deadline = clock_now() + 2 * SECONDS;

    while (looks < 100 && clock_now() < deadline)
        clock_sleep(MILLISECONDS);
    stop = 1;
    for (unsigned vcpu = 1; vcpu < VCPUS; vcpu++)
        while (!smp_finished(vcpu))
            clock_sleep(MILLISECONDS);
    check(looks >= 100, "%s, %s: the others look", name, what);
    print("MET %s, %s: %lu changes, %lu accesses, %lu with something new, %lu faults\n", name, what, changes, looks, news, faults);
    check(wrong == 0, "%s, %s: %lu accesses by an old translation", name, what, wrong);
}

static void test(const char *name, void (*set)(u64 n, u64 entry))
{
    u64 kept[VCPUS - 1];

    *frames[0] = 0;
    set(0, make_pte(virt_to_mfn(frames[0]), PTE_READ_ONLY));
    start(watch_numbers);
    for (u64 n = 1; goes_on(n - 1); n++) {
        *(volatile u64 *)frames[n & 1] = n;
        set(n, make_pte(virt_to_mfn(frames[n & 1]), PTE_READ_ONLY));
        epoch = n;
        *(volatile u64 *)frames[~n & 1] = POISON | n;
    }
    end(name, "exchanged pages");

    *frames[0] = 0;
    set(0, make_pte(virt_to_mfn(frames[0]), PTE_READ_ONLY));
    start(watch_absence);
    for (u64 n = 0; goes_on(n); n++) {
        epoch = (2 * n + 1) | POISON;
        set(n, 0);
        epoch = 2 * n + 1;
        for (unsigned delay = 0; delay < 1000; delay++)
            barrier();
        epoch = (2 * n + 2) | POISON;
        set(n + 1, make_pte(virt_to_mfn(frames[0]), PTE_READ_ONLY));
        epoch = 2 * n + 2;
    }
    end(name, "pages taken away");

    set(0, make_pte(virt_to_mfn(frames[0]), PTE_DATA));
    start(write_always);
    for (u64 n = 0; goes_on(n); n++) {
        set(n, make_pte(virt_to_mfn(frames[0]), PTE_READ_ONLY));
        memcpy(kept, frames[0] + 1, sizeof(kept));
        for (unsigned delay = 0; delay < 1000; delay++)
            barrier();
        wrong += memcmp(kept, frames[0] + 1, sizeof(kept)) != 0;
        set(n + 1, make_pte(virt_to_mfn(frames[0]), PTE_DATA));
        news += memcmp(kept, frames[0] + 1, sizeof(kept)) != 0;
    }
    end(name, "pages protected");
}

PROGRAM(tlb_shootdown)
{
    rounds = smp_scaled(50);
    frames[0] = page_alloc();
    frames[1] = page_alloc();
    map_anywhere(WINDOW, virt_to_mfn(frames[0]), PTE_READ_ONLY);
    spare_table = table_alloc();
    test("update_va_mapping", set_by_va_mapping);
    test("update_va_mapping, some", set_by_va_mapping_some);
    test("mmu_update", set_by_mmu_update);
    test("other tables", set_by_table);
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0, "writable page tables");
    test("emulated store", set_by_store);
}
