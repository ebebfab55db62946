/* multicall: all entries run, each has its own result, and they do not nest. */
#include "guest.h"

PROGRAM(multicall)
{
    xen_extraversion_t extra = {0};
    struct multicall_entry calls[5] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}, .result = 77},
        {.op = 11, .result = 77},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_extraversion, (unsigned long)extra}, .result = 77},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_extraversion, UNMAPPED}, .result = 77},
        {.op = __HYPERVISOR_sched_op, .args = {SCHEDOP_yield, 0}, .result = 77},
    };
    struct multicall_entry inner = {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}, .result = 77};
    struct multicall_entry outer = {.op = __HYPERVISOR_multicall, .args = {(unsigned long)&inner, 1}, .result = 77};
    u8 *page = page_alloc();
    struct mmu_update update;
    struct multicall_entry mixed[2];
    static u8 window[PAGE_SIZE] page_aligned;

    check_equal(hypercall_multicall(calls, ARRAY_SIZE(calls)), 0, "multicall");
    check_equal(calls[0].result, 0x40011, "entry 0: xen_version");
    check_equal(calls[1].result, -XEN_ENOSYS, "entry 1: an unknown number");
    check_equal(calls[2].result, 0, "entry 2 runs although entry 1 failed");
    check(extra[0] == '.', "entry 2 filled its buffer");
    check_equal(calls[3].result, -XEN_EFAULT, "entry 3: a bad pointer");
    check_equal(calls[4].result, 0, "entry 4: yield");

    check_equal(hypercall_multicall(NULL, 0), 0, "no entries");
    check_equal(hypercall_multicall((void *)XEN_PRIVATE, 1), -XEN_EFAULT, "a list in Xen's range");
    check_equal(hypercall_multicall((void *)UNMAPPED, 1), -XEN_EFAULT, "an unmapped list");
    check_equal(hypercall_multicall(&outer, 1), 0, "a nested multicall, outer call");
    check_equal(outer.result, -XEN_EINVAL, "is refused inside");
    check_equal(inner.result, 77, "and its entries do not run");

    *(u64 *)page = 0x1234;
    update = (struct mmu_update){.ptr = pte_machine_address(pte_of((unsigned long)window, 1)),
                                 .val = make_pte(virt_to_mfn(page), PTE_DATA)};
    mixed[0] = (struct multicall_entry){.op = __HYPERVISOR_mmu_update, .args = {(unsigned long)&update, 1, 0, DOMID_SELF}};
    mixed[1] = (struct multicall_entry){.op = __HYPERVISOR_update_va_mapping,
                                        .args = {(unsigned long)window, update.val, UVMF_INVLPG | UVMF_LOCAL}};
    check_equal(hypercall_multicall(mixed, 2), 0, "mmu_update and update_va_mapping in one multicall");
    check_equal(mixed[0].result | mixed[1].result, 0, "both succeed");
    check_equal(*(volatile u64 *)window, 0x1234, "and the new mapping is in force");
}
