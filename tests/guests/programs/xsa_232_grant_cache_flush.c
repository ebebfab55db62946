/* XSA-232: GNTTABOP_cache_flush of a frame whose owner has no grant table. And frames that are not the caller's. */
#include "guest.h"

PROGRAM(xsa_232_grant_cache_flush)
{
    struct gnttab_cache_flush flush = {.length = 64, .op = GNTTAB_CACHE_CLEAN};
    long frames = hypercall_memory_op(XENMEM_maximum_ram_page, NULL) + 1, allowed = 0;

    for (long mfn = 0; mfn < frames; mfn += 7) {
        unsigned long pfn = machine_to_phys_mapping[mfn];

        flush.a.dev_bus_addr = (u64)mfn << 12;
        if ((pfn >= start_info->nr_pages || pfn_to_mfn(pfn) != (unsigned long)mfn) && mfn != (long)(start_info->shared_info >> 12))
            allowed += hypercall_grant_table_op(GNTTABOP_cache_flush, &flush, 1) == 0;
    }
    check(allowed <= 16, "XSA-232: %ld frames of others were flushed (its own grant table may be)", allowed);
    flush.a.dev_bus_addr = ~0UL;
    check(hypercall_grant_table_op(GNTTABOP_cache_flush, &flush, 1) < 0, "XSA-232: a frame that does not exist");
    flush.a.dev_bus_addr = (u64)virt_to_mfn(page_alloc()) << 12;
    flush.offset = 4090;
    check(hypercall_grant_table_op(GNTTABOP_cache_flush, &flush, 1) < 0, "XSA-232: across the end of the page");
    flush.offset = 0;
    flush.op = ~0U;
    check(hypercall_grant_table_op(GNTTABOP_cache_flush, &flush, 1) < 0, "XSA-232: unknown operations");
}
