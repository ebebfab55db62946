/* @vcpus 2
 * @timeout 60
 * The dirty bit of a page is never lost: a vCPU that writes sets it in the page table at the same time as another takes the entry away, changes
 * it by hypercall, or by an emulated locked operation. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;
static volatile u64 stop, written;
static u64 *page, *entry;
static u64 rounds;

static void write_always(unsigned vcpu)
{
    (void)vcpu;
    for (u64 n = 1; !stop; n++) {
        asm volatile(MAY_FAULT("movq %1, %0") : "=m"(*(volatile u64 *)window) : "r"(n));
        written = n;
    }
}

/* What kernels do to learn whether a page was written: take the entry out, flush, look at its dirty bit. */
static u64 take_by_xchg(void)
{
    return __atomic_exchange_n(entry, 0, __ATOMIC_SEQ_CST);
}

static u64 take_by_cmpxchg(void)
{
    u64 old = *(volatile u64 *)entry;

    while (!__atomic_compare_exchange_n(entry, &old, 0, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
        ;
    return old;
}

/* First keep the bits by hypercall while they may be set, then take it. */
static u64 take_after_updates(void)
{
    struct mmu_update update = {.ptr = pte_machine_address(entry) | MMU_PT_UPDATE_PRESERVE_AD};

    for (unsigned i = 0; i < 4; i++) {
        update.val = make_pte(virt_to_mfn(page), PTE_P | PTE_RW | PTE_NX | (i & 1 ? PTE_AVAIL : 0));
        hypercall_mmu_update(&update, 1, NULL, DOMID_SELF);
    }
    return take_by_xchg();
}

static void test(const char *name, u64 (*take)(void))
{
    u64 clean = 0, dirty = 0, lost = 0, round;

    stop = 0;
    smp_start(1, write_always);
    /* On a busy host, until they have met a few times. */
    for (round = 0; round < rounds || (dirty < 3 && round < 50 * rounds); round++) {
        u64 before = *(volatile u64 *)page, old, after;

        pte_write(entry, make_pte(virt_to_mfn(page), PTE_P | PTE_RW | PTE_NX));
        for (unsigned delay = round % 8192; delay; delay--)
            barrier();
        old = take();
        mmuext(MMUEXT_INVLPG_ALL, (unsigned long)window, 0);
        after = *(volatile u64 *)page;
        if (after == before)
            clean++;
        else if (old & PTE_D)
            dirty++;
        else
            lost++;
    }
    stop = 1;
    while (!smp_finished(1))
        clock_sleep(MILLISECONDS);
    print("MET %s: %lu rounds, written in %lu, not in %lu\n", name, round, dirty + lost, clean);
    check(lost == 0, "%s: in %lu of %lu rounds a page was written and its entry clean", name, lost, round);
    check(dirty > 0, "%s: pages are written", name);
}

PROGRAM(accessed_dirty)
{
    rounds = smp_scaled(500);
    page = page_alloc();
    entry = pte_of((unsigned long)window, 1);
    check_equal(hypercall_vm_assist(VMASST_CMD_enable, VMASST_TYPE_writable_pagetables), 0, "writable page tables");
    pte_write(entry, 0);
    mmuext(MMUEXT_TLB_FLUSH_ALL, 0, 0);
    test("xchg", take_by_xchg);
    test("cmpxchg", take_by_cmpxchg);
    test("mmu_update that preserves", take_after_updates);
}
