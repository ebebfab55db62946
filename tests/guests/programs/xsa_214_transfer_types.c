/* XSA-214: GNTTABOP_transfer gave away a page while it was in use as a descriptor table. XSA-217: mapped pages could be transferred. XSA-284: frame
 * numbers too wide for the receiver. XSA-287: pages were stolen while others looked. */
#include "guest.h"
#include "grant.h"

static int transfer(unsigned long mfn, domid_t domid, grant_ref_t reference)
{
    struct gnttab_transfer argument = {.mfn = mfn, .domid = domid, .ref = reference};
    long result = hypercall_grant_table_op(GNTTABOP_transfer, &argument, 1);

    return result ? (int)result : argument.status;
}

static long current_pages(void)
{
    struct xen_memory_domain self = {.domid = DOMID_SELF};

    return hypercall_memory_op(XENMEM_current_reservation, &self);
}

PROGRAM(xsa_214_transfer_types)
{
    u64 *mapped = page_alloc(), *gdt = page_alloc(), *table = table_alloc(), *free = page_alloc();
    unsigned long free_mfn = virt_to_mfn(free), mfns[1] = {virt_to_mfn(gdt)};
    unsigned long foreign[] = {0, 1, start_info->shared_info >> 12, 0xffffff, ~0UL, 1UL << 52};
    domid_t self = own_domid();
    long before = current_pages();

    grants_init();
    for (int i = 20; i < 40; i++)
        grant_give(i, 0x100, GTF_accept_transfer);
    *free = 0x1234;
    check(transfer(virt_to_mfn(mapped), self, 20) < 0, "XSA-217: a page that is mapped");
    map_page(gdt, gdt, PTE_READ_ONLY);
    check_equal(hypercall_set_gdt(mfns, 512), 0, "a page as the GDT");
    map_page(gdt, gdt, 0);
    check(transfer(virt_to_mfn(gdt), self, 21) < 0, "XSA-214: the GDT, mapped nowhere");
    check_equal(segment_load(ds, FLAT_USER_DS).kind, KIND_NONE, "the GDT still works");
    segment_load(ds, 0);
    hypercall_set_gdt(NULL, 0);
    mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0);
    map_page(table, table, 0);
    check(transfer(virt_to_mfn(table), self, 22) < 0, "XSA-214: a pinned page table");
    check(transfer(start_info->pt_base ? virt_to_mfn((void *)start_info->pt_base) : 0, self, 23) < 0, "XSA-214: the root");
    for (size_t i = 0; i < ARRAY_SIZE(foreign); i++)
        check(transfer(foreign[i], self, 24) < 0, "XSA-287: frame 0x%lx", foreign[i]);
    check_equal(current_pages(), before, "nothing is lost");
    map_page(free, free, 0);
    check_equal(transfer(free_mfn, self, 30), GNTST_okay, "a page that nothing uses, to itself");
    check(grant_flags(30) & GTF_transfer_completed, "the entry says so");
    check_equal(grant_table.v1[30].frame, free_mfn, "and which");
    check_equal(current_pages(), before, "the reservation is as before");
    check_equal(map_frame(free, free_mfn, PTE_DATA), 0, "it can be mapped");
    map_frame(free, 0, 0);
    check(transfer(free_mfn, self, 30) < 0, "XSA-287: the same entry twice");
    check_equal(machine_to_phys_mapping[free_mfn] == 0x100 || current_pages() == before - 1, 1, "XSA-284: the M2P follows, or the page is gone");
}
