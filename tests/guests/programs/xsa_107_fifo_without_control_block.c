/* XSA-107: FIFO event channels without a control block for the vCPU. XSA-188: the event array was used after the domain left the ABI.
 * XSA-342, XSA-338: ports beyond what the ABI in use can have. XSA-358, XSA-359: control structures seen before they were set up.
 * XSA-327: register_vcpu_info without alignment. */
#include "guest.h"

static long init_control(unsigned vcpu, unsigned long mfn, unsigned offset)
{
    struct evtchn_init_control argument = {.control_gfn = mfn, .offset = offset, .vcpu = vcpu};

    return hypercall_event_channel_op(EVTCHNOP_init_control, &argument);
}

static long expand(unsigned long mfn)
{
    struct evtchn_expand_array argument = {.array_gfn = mfn};

    return hypercall_event_channel_op(EVTCHNOP_expand_array, &argument);
}

static long reset(void)
{
    struct evtchn_reset argument = {.dom = DOMID_SELF};

    return hypercall_event_channel_op(EVTCHNOP_reset, &argument);
}

PROGRAM(xsa_107_fifo_without_control_block)
{
    u8 *control = page_alloc(), *array = page_alloc();
    u64 *table = table_alloc();
    struct vcpu_register_vcpu_info info = {.mfn = virt_to_mfn(page_alloc())};
    long port;

    check(expand(virt_to_mfn(array)) < 0, "XSA-107: expand_array in the 2-level ABI");
    check(init_control(9, virt_to_mfn(control), 0) < 0, "XSA-107: a control block of vCPU 9");
    check(init_control(0, 0xffffffffff, 0) < 0, "XSA-107: a control block nowhere");
    check(init_control(0, virt_to_mfn(control), 1) < 0, "XSA-359: a misaligned control block");
    check(init_control(0, virt_to_mfn(control), 4096 - 8) < 0, "XSA-359: one across the page's end");
    check(init_control(0, virt_to_mfn(control), 1U << 31) < 0, "XSA-359: one far beyond it");
    check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0), 0, "a page table");
    check(init_control(0, virt_to_mfn(table), 0) < 0, "XSA-359: a control block in a page table");
    for (int round = 0; round < 5; round++) {
        memset(control, 0, PAGE_SIZE);
        memset(array, 0, PAGE_SIZE);
        check_equal(init_control(0, virt_to_mfn(control), 0), 0, "the FIFO ABI");
        port = event_alloc_unbound(DOMID_SELF);
        check(port == -XEN_ENOSPC || port > 0, "XSA-107: a port before there is an array answers %ld", port);
        check(expand(virt_to_mfn(table)) < 0, "XSA-358: an array page that is a page table");
        check(expand(0xffffffffff) < 0, "XSA-358: an array page nowhere");
        check_equal(expand(virt_to_mfn(array)), 0, "an array page");
        check_equal(map_page(array, array, PTE_READ_ONLY), 0, "map it read-only");
        check(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(array), 0) < 0, "XSA-188: it can't become a page table while it is the array");
        map_page(array, array, PTE_DATA);
        port = event_alloc_unbound(DOMID_SELF);
        check(port > 0, "a port");
        long local = event_bind_interdomain(DOMID_SELF, port);

        check(local > 0, "its other end");
        /* Wild words: a busy tag, links to ports that do not exist, everything masked and linked. */
        memset(control, 0xff, PAGE_SIZE);
        memset(array, 0xff, PAGE_SIZE);
        for (int i = 0; i < 20; i++) {
            event_send(local);
            event_unmask(port);
            ((u32 *)array)[port] = 0x80000000U | (i << 14) | 0x1ffff;
        }
        check_equal(reset(), 0, "XSA-188: reset, back to the 2-level ABI");
        check(expand(virt_to_mfn(array)) < 0, "XSA-188: no array then");
        check_equal(map_page(array, array, PTE_READ_ONLY), 0, "map it read-only");
        check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(control), 0) == 0, 0, "the control page is still mapped writable");
        memset(control, 0, 8);
        map_page(array, array, PTE_DATA);
        memset(array, 0, PAGE_SIZE);
        map_page(array, array, PTE_READ_ONLY);
        check_equal(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(array), 0), 0, "XSA-188: the array's page is free for other uses");
        check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(array), 0), 0, "unpin it");
        map_page(array, array, PTE_DATA);
        check(event_send(4097) < 0 && event_close(100000) < 0, "XSA-338: ports of the other ABI");
    }
    for (info.offset = 1; info.offset < 64; info.offset++)
        if (info.offset % 8)
            check(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &info) < 0, "XSA-327: vcpu_info at offset %u", info.offset);
    info.offset = 4096 - 32;
    check(hypercall_vcpu_op(VCPUOP_register_vcpu_info, 0, &info) < 0, "XSA-327: across the page's end");
}
