/* @vcpus 2
 * XSA-218: unmapping one grant from two vCPUs at once counted twice. XSA-228: maptrack free lists were raced. XSA-236: pin counts were read without
 * the lock. Two vCPUs map and unmap the same references, and each other's handles. */
#include "guest.h"
#include "grant.h"

static u8 windows[2][PAGE_SIZE] page_aligned;
static u8 second_stack[16384] __attribute__((aligned(16)));
static volatile u64 stop, done, turns;
static volatile grant_handle_t handles[2];
static domid_t self;

static void turn(int which)
{
    struct gnttab_map_grant_ref map = {.host_addr = (u64)windows[which], .flags = GNTMAP_host_map | GNTMAP_device_map, .ref = 40, .dom = self};
    struct gnttab_unmap_grant_ref unmap[3];

    hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1);
    handles[which] = map.handle;
    for (int i = 0; i < 3; i++)
        unmap[i] = (struct gnttab_unmap_grant_ref){.host_addr = (u64)windows[i == 2 ? !which : which],
                                                   .dev_bus_addr = map.dev_bus_addr,
                                                   .handle = i == 2 ? handles[!which] : map.handle};
    hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, unmap, 3);
}

static void second_main(void)
{
    while (!stop) {
        turn(1);
        turns++;
    }
    done = 1;
    hypercall_vcpu_op(VCPUOP_down, 1, NULL);
    for (;;)
        hypercall_sched_op(SCHEDOP_yield, NULL);
}

PROGRAM(xsa_218_concurrent_unmap)
{
    static struct vcpu_guest_context context;
    u8 *page = page_alloc();
    u64 deadline;

    grants_init();
    self = own_domid();
    grant_give(40, virt_to_mfn(page), GTF_permit_access);
    context.flags = VGCF_in_kernel;
    context.user_regs.rip = (u64)second_main;
    context.user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context.user_regs.cs = FLAT_KERNEL_CS;
    context.user_regs.ss = context.kernel_ss = FLAT_KERNEL_SS;
    context.kernel_sp = (u64)second_stack + sizeof(second_stack);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "initialise vCPU 1");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "vCPU 1 up");
    deadline = clock_now() + 5 * SECONDS;
    for (int i = 0; i < 400 || (turns <= 10 && clock_now() < deadline); i++)
        turn(0);
    stop = 1;
    for (deadline = clock_now() + 5 * SECONDS; !done && clock_now() < deadline;)
        clock_sleep(MILLISECONDS);
    check_equal(done, 1, "vCPU 1 has finished");
    check(turns > 10, "XSA-218: %lu turns there", turns);
    for (unsigned handle = 0; handle < 64; handle++)
        for (int which = 0; which < 2; which++)
            grant_unmap(handle, (unsigned long)windows[which], (u64)virt_to_mfn(page) << 12);
    check_equal(grant_flags(40), GTF_permit_access, "XSA-218: the grant is not in use");
    check_equal(grant_set_version(1), 0, "XSA-228: set_version");
    map_page(page, page, PTE_READ_ONLY);
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(page), 0), 0, "XSA-236: no writable reference is left on the frame");
}
