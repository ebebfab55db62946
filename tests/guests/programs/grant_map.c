/* A domain maps its own grants: by address and by entry, read-only, revoked while mapped, unmapped, replaced. The processor's view each time. */
#include "guest.h"
#include "grant.h"

#define REF 20

static u8 window[3 * PAGE_SIZE] page_aligned;
static u64 *page;

static void grant_revoke(grant_ref_t reference)
{
    *(volatile u16 *)&grant_table.v1[reference].flags &= ~GTF_type_mask;
}

static struct gnttab_map_grant_ref map_at(u64 address, u32 flags)
{
    struct gnttab_map_grant_ref op = {.host_addr = address, .flags = flags, .ref = REF, .dom = own_domid()};

    check_equal(hypercall_grant_table_op(GNTTABOP_map_grant_ref, &op, 1), 0, "map_grant_ref");
    return op;
}

static s64 unmap_at(u64 address, grant_handle_t handle)
{
    struct gnttab_unmap_grant_ref op = {.host_addr = address, .handle = handle};

    check_equal(hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &op, 1), 0, "unmap_grant_ref");
    return op.status;
}

static void check_by_address(void)
{
    u64 address = (u64)window;
    volatile u64 *view = (u64 *)window;
    struct gnttab_map_grant_ref op;

    grant_give(REF, virt_to_mfn(page), GTF_permit_access);
    *page = 0x1111;
    op = map_at(address, GNTMAP_host_map);
    check_equal((s64)op.status, GNTST_okay, "its status");
    mmuext(MMUEXT_INVLPG_LOCAL, address, 0); /* mapping over something else flushes nothing */
    check_equal(*view, 0x1111, "the granted page is there");
    *view = 0x2222;
    check_equal(*(volatile u64 *)page, 0x2222, "and can be written");
    check_equal(grant_flags(REF) & (GTF_reading | GTF_writing), GTF_reading | GTF_writing, "in use");
    grant_revoke(REF);
    check_equal(*view, 0x2222, "revoked: still mapped");
    check_equal(unmap_at(address, op.handle), GNTST_okay, "unmap");
    check_trap(TRAP_OF(MAY_FAULT("movq (%0), %%rax")::"r"(view) : "rax", "memory"), VECTOR_PF, 0, "nothing is mapped any more");
    check_equal(grant_flags(REF) & (GTF_reading | GTF_writing), 0, "not in use");
    check_equal((s64)map_at(address, GNTMAP_host_map).status, GNTST_general_error, "a revoked grant");
    check_equal(unmap_at(address, op.handle), GNTST_bad_handle, "unmap again");
}

static void check_read_only(void)
{
    u64 address = (u64)window;
    struct gnttab_map_grant_ref op;

    grant_give(REF, virt_to_mfn(page), GTF_permit_access | GTF_readonly);
    check_equal((s64)map_at(address, GNTMAP_host_map).status, GNTST_general_error, "a read-only grant for writing");
    op = map_at(address, GNTMAP_host_map | GNTMAP_readonly);
    check_equal((s64)op.status, GNTST_okay, "for reading");
    check_equal(*(volatile u64 *)window, 0x2222, "it can be read");
    check_trap(TRAP_OF(MAY_FAULT("movq $1, (%0)")::"r"(window) : "memory"), VECTOR_PF, PF_PRESENT | PF_WRITE, "and not written");
    check_equal(unmap_at(address, op.handle), GNTST_okay, "unmap");
    grant_revoke(REF);
}

static void check_by_entry(void)
{
    u64 *pte = pte_of((u64)window + PAGE_SIZE, 1);
    u64 entry = pte_machine_address(pte);
    struct gnttab_map_grant_ref op;

    grant_give(REF, virt_to_mfn(page), GTF_permit_access);
    op = map_at(entry, GNTMAP_host_map | GNTMAP_contains_pte | GNTMAP_application_map);
    check_equal((s64)op.status, GNTST_okay, "by the entry's machine address");
    mmuext(MMUEXT_INVLPG_LOCAL, (u64)window + PAGE_SIZE, 0);
    check_equal(*(volatile u64 *)(window + PAGE_SIZE), 0x2222, "the page is there");
    check(*pte & PTE_NX, "and not executable");
    check_equal((*pte & PTE_FRAME) >> 12, virt_to_mfn(page), "the entry names the frame");
    check_equal(unmap_at(entry + 8, op.handle), GNTST_general_error, "unmap by another entry");
    check_equal(unmap_at(entry, op.handle), GNTST_okay, "unmap");
    check_equal(*pte, 0, "the entry is gone");
}

static void check_replace(void)
{
    struct gnttab_unmap_and_replace op = {.host_addr = (u64)window, .new_addr = (u64)window + 2 * PAGE_SIZE};
    u64 *other = (u64 *)(window + 2 * PAGE_SIZE);

    *other = 0x3333;
    op.handle = map_at((u64)window, GNTMAP_host_map).handle;
    check_equal(*(volatile u64 *)window, 0x2222, "mapped");
    check_equal(hypercall_grant_table_op(GNTTABOP_unmap_and_replace, &op, 1), 0, "unmap_and_replace");
    check_equal((s64)op.status, GNTST_okay, "its status");
    check_equal(*(volatile u64 *)window, 0x3333, "the other page is here now");
    check_trap(TRAP_OF(MAY_FAULT("movq (%0), %%rax")::"r"(other) : "rax", "memory"), VECTOR_PF, 0, "and not there");
}

PROGRAM(grant_map)
{
    grants_init();
    page = page_alloc();
    check_by_address();
    check_read_only();
    check_by_entry();
    check_replace();
}
