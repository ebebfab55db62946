/* XSA-227: GNTMAP_contains_pte took a misaligned address of the entry, so that a grant's entry was written across two. Addresses in other kinds of
 * frames must be refused as well. XSA-316: an error of GNTTABOP_map_grant_ref looked like success. */
#include "guest.h"
#include "grant.h"

static u8 window[2 * PAGE_SIZE] page_aligned;

PROGRAM(xsa_227_grant_pte_address)
{
    u64 *page = page_alloc(), *pte = pte_of((unsigned long)window, 1), *plain = page_alloc(), before[2];
    u64 where = pte_machine_address(pte);
    const u32 flags = GNTMAP_host_map | GNTMAP_contains_pte;
    grant_handle_t handle;
    const u64 refused[] = {where + 1, where + 4, where + 7, where | 1UL << 63, where | 1UL << 52, ~0UL, ~7UL,
                           (u64)virt_to_mfn(plain) << 12, start_info->shared_info, 0, 0xffffff000UL,
                           pte_machine_address(pte_of((unsigned long)window, 2)), pte_machine_address(pte_of((unsigned long)window, 3)),
                           pte_machine_address(pte_of((unsigned long)window, 4)), pte_machine_address((u64 *)start_info->pt_base + 256)};

    grants_init();
    grant_give(10, virt_to_mfn(page), GTF_permit_access);
    memcpy(before, pte, sizeof(before));
    for (size_t i = 0; i < ARRAY_SIZE(refused); i++) {
        int status = grant_map(10, refused[i], flags, &handle);

        check(status < 0, "XSA-227: entry at 0x%lx: %d", refused[i], status);
    }
    check(memcmp(before, pte, sizeof(before)) == 0, "the entries are as before");
    check_equal(grant_flags(10), GTF_permit_access, "XSA-316: the grant is not in use");
    static const struct {
        u32 reference, flags;
        domid_t domid;
    } bad[] = {{600, GNTMAP_host_map, 0}, {~0U, GNTMAP_host_map, 0}, {11, GNTMAP_host_map, 0}, {10, 0, 0}, {10, GNTMAP_readonly, 0}};

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        check(grant_map(bad[i].reference, (unsigned long)window, bad[i].flags, &handle) < 0, "XSA-316: bad mapping %u", (unsigned)i);
    check(grant_map(10, XEN_PRIVATE, GNTMAP_host_map, &handle) < 0, "XSA-316: into Xen's memory");
    check(grant_map(10, UNMAPPED, GNTMAP_host_map, &handle) < 0, "XSA-316: where there is no table");
    check(grant_map(10, NON_CANONICAL, GNTMAP_host_map, &handle) < 0, "XSA-316: at a non-canonical address");
    check_equal(grant_map(10, where, flags, &handle), GNTST_okay, "a proper one");
    *(volatile u64 *)window = 0x66;
    check_equal(*page, 0x66, "works");
    check_equal(pte[1], before[1], "and its neighbour is as before");
    check(grant_unmap(handle, where + 4, 0) < 0, "XSA-227: unmap with a misaligned address");
    check_equal(grant_unmap(handle, where, 0), GNTST_okay, "unmap");
    check_equal(grant_flags(10), GTF_permit_access, "not in use");
}
