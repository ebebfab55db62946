/* @vcpus 2
 * XSA-296: VCPUOP_initialise with a preempted page-table validation hit a BUG. Contexts that are wrong in every way, then a good one. */
#include "guest.h"

static volatile u64 alive;
static u8 second_stack[8192] __attribute__((aligned(16)));

static void second_main(void)
{
    alive = 1;
    hypercall_vcpu_op(VCPUOP_down, 1, NULL);
    for (;;)
        ;
}

static void good(struct vcpu_guest_context *context)
{
    memset(context, 0, sizeof(*context));
    context->flags = VGCF_in_kernel;
    context->user_regs.rip = (u64)second_main;
    context->user_regs.rsp = (u64)second_stack + sizeof(second_stack) - 8;
    context->user_regs.cs = FLAT_KERNEL_CS;
    context->user_regs.ss = context->kernel_ss = FLAT_KERNEL_SS;
    context->kernel_sp = (u64)second_stack + sizeof(second_stack);
    context->ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn((void *)start_info->pt_base));
}

PROGRAM(xsa_296_vcpu_initialise)
{
    static struct vcpu_guest_context context;
    u64 *plain = page_alloc(), *table = table_alloc();
    u64 *root = table_alloc();
    u64 roots[] = {0, ~0UL, 0xffffffffff000UL, (u64)virt_to_mfn(plain) << 12, (u64)virt_to_mfn(table) << 12, start_info->shared_info, 1UL << 52};

    mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0);
    pte_write(&root[0], make_pte(0xffffff, PTE_TABLE));
    for (size_t i = 0; i < ARRAY_SIZE(roots); i++) {
        good(&context);
        context.ctrlreg[3] = roots[i];
        check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: CR3 0x%lx", roots[i]);
        good(&context);
        context.ctrlreg[1] = roots[i] ? roots[i] | 1 : 3;
        check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: user CR3 0x%lx", roots[i]);
    }
    good(&context);
    context.ctrlreg[3] = xen_pfn_to_cr3(virt_to_mfn(root));
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: a root that does not validate");
    good(&context);
    context.gdt_ents = 8192;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: too large a GDT");
    good(&context);
    context.gdt_ents = 512;
    context.gdt_frames[0] = 0xffffff;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: a GDT nowhere");
    good(&context);
    context.ldt_base = 8;
    context.ldt_ents = 9000;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: a bad LDT");
    good(&context);
    context.flags = 0;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: a start in user mode");
    good(&context);
    context.user_regs.rip = NON_CANONICAL;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: a non-canonical RIP");
    good(&context);
    context.gs_base_kernel = XEN_PRIVATE;
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, &context) < 0, "XSA-296: a segment base in Xen");
    check(hypercall_vcpu_op(VCPUOP_initialise, 1, (void *)XEN_PRIVATE) == -XEN_EFAULT, "XSA-296: a context in Xen's memory");
    check(hypercall_vcpu_op(VCPUOP_initialise, 0, &context) < 0, "XSA-296: the running vCPU");
    check(hypercall_vcpu_op(VCPUOP_initialise, 2, &context) < 0, "XSA-296: a vCPU that does not exist");
    check_equal(map_page(root, root, PTE_DATA), 0, "XSA-296: the refused root is plain");
    good(&context);
    check_equal(hypercall_vcpu_op(VCPUOP_initialise, 1, &context), 0, "a good context");
    check_equal(hypercall_vcpu_op(VCPUOP_up, 1, NULL), 0, "up");
    for (int i = 0; i < 2000 && !alive; i++)
        clock_sleep(MILLISECONDS);
    check_equal(alive, 1, "it runs");
}
