/* @vcpus 2
 * vCPU 1 writes through a grant mapping all the time; when vCPU 0 has unmapped it, not one more write reaches the page. */
#include "guest.h"
#include "grant.h"

#define REF 20
#define ROUNDS 30

static u8 window[PAGE_SIZE] page_aligned;
static volatile u64 ready, stop;
static u8 second_stack[16384] __attribute__((aligned(16)));

static void second_main(void)
{
    u64 value = 1;

    while (!stop) {
        *(volatile u64 *)window = value++;
        ready = value;
    }
    for (;;)
        hypercall_vcpu_op(VCPUOP_down, 1, NULL);
}

static void start_second(void)
{
    static struct vcpu_guest_context context;

    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = FLAT_KERNEL_SS;
    context.user_regs.rflags = X86_EFLAGS_IF;
    context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "up");
}

PROGRAM(grant_unmap_tlb)
{
    u64 *page = page_alloc(), *other = page_alloc();
    struct gnttab_unmap_and_replace op = {.host_addr = (u64)window};
    grant_handle_t handle;
    unsigned late = 0, reached = 0;

    grants_init();
    grant_give(REF, virt_to_mfn(page), GTF_permit_access);
    start_second();
    for (int round = 0; round < ROUNDS; round++) {
        u64 seen, deadline = clock_now() + SECONDS;

        check(grant_map(REF, (u64)window, GNTMAP_host_map, &handle) == GNTST_okay, "map");
        mmuext(MMUEXT_INVLPG_ALL, (u64)window, 0);
        *(volatile u64 *)page = 0;
        while (!*(volatile u64 *)page && clock_now() < deadline)
            asm volatile("pause");
        reached += *(volatile u64 *)page != 0;
        /* Atomically another page in its place, so that vCPU 1 never faults. */
        check(map_frame(other, virt_to_mfn(other), PTE_DATA) == 0, "the other page");
        op.handle = handle;
        op.new_addr = (u64)other;
        check(hypercall_grant_table_op(GNTTABOP_unmap_and_replace, &op, 1) == 0 && op.status == GNTST_okay, "replace");
        *(volatile u64 *)page = 0;
        seen = ready;
        while (ready < seen + 1000 && clock_now() < deadline)
            asm volatile("pause");
        late += *(volatile u64 *)page != 0;
    }
    stop = 1;
    check_equal(reached, ROUNDS, "rounds in which vCPU 1 wrote through the mapping");
    check_equal(late, 0, "rounds in which it did so after the unmap");
}
