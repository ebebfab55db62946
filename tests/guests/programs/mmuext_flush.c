/* TLB operations, and cache flushes that a domain without hardware may not ask for. */
#include "guest.h"

static u8 window[PAGE_SIZE] page_aligned;

static u64 *fresh_page(u64 value)
{
    u64 *page = page_alloc();

    *page = value;
    return page;
}

static long flush_multi(unsigned command, unsigned long address, const void *mask)
{
    struct mmuext_op operation = {.cmd = command};

    operation.arg1.linear_addr = address;
    set_xen_guest_handle(operation.arg2.vcpumask, mask);
    return hypercall_mmuext_op(&operation, 1, NULL, DOMID_SELF);
}

#define check_flush(expression, name)                                                                    \
    do {                                                                                                 \
        (void)*(volatile u64 *)window;                                                                   \
        pte_write(pte_of((unsigned long)window, 1), make_pte(virt_to_mfn(fresh_page(++value)), PTE_DATA)); \
        check_equal(expression, 0, name);                                                                \
        check_equal(*(volatile u64 *)window, value, name " drops the old translation");                  \
    } while (0)

PROGRAM(mmuext_flush)
{
    static unsigned long mask = ~0UL;
    u64 value = 100;

    check_flush(mmuext(MMUEXT_INVLPG_LOCAL, (unsigned long)window, 0), "INVLPG_LOCAL");
    check_flush(mmuext(MMUEXT_INVLPG_ALL, (unsigned long)window + 8, 0), "INVLPG_ALL");
    check_flush(mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0), "TLB_FLUSH_LOCAL");
    check_flush(mmuext(MMUEXT_TLB_FLUSH_ALL, 0, 0), "TLB_FLUSH_ALL");
    check_flush(flush_multi(MMUEXT_INVLPG_MULTI, (unsigned long)window, &mask), "INVLPG_MULTI");
    check_flush(flush_multi(MMUEXT_TLB_FLUSH_MULTI, 0, &mask), "TLB_FLUSH_MULTI");
    check_equal(mmuext(MMUEXT_INVLPG_LOCAL, NON_CANONICAL, 0), 0, "INVLPG_LOCAL of a non-canonical address");
    check(flush_multi(MMUEXT_TLB_FLUSH_MULTI, 0, (void *)UNMAPPED) < 0, "TLB_FLUSH_MULTI with a bad mask");
    check_equal(mmuext(MMUEXT_FLUSH_CACHE, 0, 0), -XEN_EACCES, "FLUSH_CACHE");
    check_equal(mmuext(MMUEXT_MARK_SUPER, virt_to_mfn(window), 0), -XEN_EOPNOTSUPP, "MARK_SUPER");
    check_equal(mmuext(MMUEXT_UNMARK_SUPER, virt_to_mfn(window), 0), -XEN_EOPNOTSUPP, "UNMARK_SUPER");

    struct mmuext_op operations[3] = {{.cmd = MMUEXT_TLB_FLUSH_LOCAL}, {.cmd = 99}, {.cmd = MMUEXT_TLB_FLUSH_LOCAL}};
    unsigned done = 55;

    check_equal(hypercall_mmuext_op(operations, 3, &done, DOMID_SELF), -XEN_ENOSYS, "a batch with a bad operation");
    check_equal(done, 1, "stops there");
    check_equal(hypercall_mmuext_op(operations, 1, &done, 0), -XEN_EPERM, "on behalf of domain 0");
    check_equal(hypercall_mmuext_op(operations, 1, &done, 0x7000), -XEN_ESRCH, "on behalf of no domain");
}
