/* @vcpus 2
 * XSA-401: a frame's type was taken while another vCPU could still write to it. XSA-345, XSA-286: mappings that change under concurrent use.
 * vCPU 1 maps a frame writable, writes, and unmaps it, without end; vCPU 0 pins it as a page table. Only one of them has it at a time. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;
static u8 second_stack[16384] __attribute__((aligned(16)));
static volatile u64 stop, done, mapped, refused, owned_by_first, wrong;
static u64 *victim;
static unsigned long mfn;

static void second_main(void)
{
    u64 *pte = pte_of((unsigned long)window, 1);

    while (!stop) {
        struct mmu_update update = {.ptr = pte_machine_address(pte), .val = make_pte(mfn, PTE_DATA)};

        if (hypercall_mmu_update(&update, 1, NULL, DOMID_SELF) == 0) {
            wrong += owned_by_first;
            *(volatile u64 *)window = 0x40;
            wrong += owned_by_first;
            mapped++;
            update.val = 0;
            hypercall_mmu_update(&update, 1, NULL, DOMID_SELF);
        } else
            refused++;
    }
    done = 1;
    hypercall_vcpu_op(VCPUOP_down, 1, NULL);
    for (;;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
}

PROGRAM(xsa_401_type_race)
{
    static struct vcpu_guest_context context;
    unsigned pinned = 0;
    u64 deadline;

    victim = table_alloc();
    mfn = virt_to_mfn(victim);
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "vCPU 1 up");
    for (int i = 0; i < 3000; i++) {
        if (mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0))
            continue;
        owned_by_first = 1;
        pinned++;
        for (int j = 0; j < 20; j++)
            asm volatile("pause");
        owned_by_first = 0;
        mmuext(MMUEXT_UNPIN_TABLE, mfn, 0);
    }
    for (deadline = clock_now() + 5 * SECONDS; (mapped == 0 || refused == 0) && clock_now() < deadline;)
        if (mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0) == 0) {
            clock_sleep(100 * MICROSECONDS);
            mmuext(MMUEXT_UNPIN_TABLE, mfn, 0);
        }
    stop = 1;
    for (deadline = clock_now() + 5 * SECONDS; !done && clock_now() < deadline;)
        clock_sleep(MILLISECONDS);
    check_equal(wrong, 0, "XSA-401: never writable and a page table at once");
    check(mapped > 0, "vCPU 1 mapped it %lu times, and was refused %lu times", mapped, refused);
    check(pinned > 0, "vCPU 0 pinned it %u times", pinned);
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0), 0, "XSA-401: and no reference is left");
}
