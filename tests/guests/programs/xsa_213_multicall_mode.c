/* XSA-213: a multicall with HYPERVISOR_iret inside went on in the wrong mode. Also: multicalls in multicalls, and roots that change on the way. */
#include "guest.h"

PROGRAM(xsa_213_multicall_mode)
{
    u64 *page = page_alloc();
    static struct multicall_entry inner[2];
    struct mmuext_op base = {.cmd = MMUEXT_NEW_BASEPTR}, none = {.cmd = MMUEXT_NEW_USER_BASEPTR};
    struct multicall_entry calls[] = {
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_iret},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_multicall, .args = {(u64)inner, 2}},
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&none, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_mmuext_op, .args = {(u64)&base, 1, 0, DOMID_SELF}},
        {.op = __HYPERVISOR_update_va_mapping, .args = {(u64)page, make_pte(virt_to_mfn((void *)start_info->pt_base), PTE_DATA), 0}},
        {.op = ~0UL},
        {.op = 1UL << 32 | __HYPERVISOR_xen_version, .args = {XENVER_version}},
        {.op = __HYPERVISOR_xen_version, .args = {XENVER_version}},
    };

    user_init();
    base.arg1.mfn = virt_to_mfn((void *)start_info->pt_base);
    none.arg1.mfn = virt_to_mfn(user_root);
    for (int i = 0; i < 20; i++) {
        check(hypercall_multicall(calls, ARRAY_SIZE(calls)) == 0, "XSA-213: the list is done");
        check((long)calls[0].result > 0, "the version");
        check((long)calls[1].result < 0, "XSA-213: no iret in a multicall");
        check_equal(calls[2].result, calls[0].result, "XSA-213: still in the kernel after it");
        check((long)calls[3].result < 0, "no multicall in a multicall");
        check_equal(calls[4].result, 0, "a user root in between");
        check_equal(calls[5].result, 0, "a kernel root in between");
        check((long)calls[6].result < 0, "XSA-213: no writable mapping of the root");
        check((long)calls[7].result < 0, "a number that is none");
        check_equal(calls[9].result, calls[0].result, "the last");
    }
    *page = 1;
    check_equal(hypercall_multicall((struct multicall_entry *)XEN_PRIVATE, 1), -XEN_EFAULT, "a list in Xen's memory");
    check_equal(segment_read(cs), FLAT_KERNEL_CS, "XSA-213: the mode is right");
}
