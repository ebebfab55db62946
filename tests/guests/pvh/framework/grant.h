/* Grants of version 1 that a program gives to its own domain, and their mapping at guest physical addresses. */
#pragma once

#include "guest.h"

/* The first frame of the table is placed here. References from 8 on are the program's. */
#define GRANT_TABLE_ADDRESS (HOLE + 0x10000)
#define grant_table ((volatile struct grant_entry_v1 *)GRANT_TABLE_ADDRESS)

static domid_t own_domid __attribute__((unused));

static inline void grants_init(void)
{
    u32 leaf[4];

    cpuid(0x40000004, 0, leaf);
    own_domid = leaf[2];
    check_equal(physmap_add(XENMAPSPACE_grant_table, 0, GRANT_TABLE_ADDRESS >> 12), 0, "place the grant table");
}

static inline void grant_give(grant_ref_t reference, unsigned long gfn, u16 flags)
{
    grant_table[reference].domid = own_domid;
    grant_table[reference].frame = gfn;
    barrier();
    grant_table[reference].flags = flags;
}

/* -> GNTST_* or -errno; the handle to *handle. */
static inline int grant_map(grant_ref_t reference, unsigned long address, u32 flags, grant_handle_t *handle)
{
    struct gnttab_map_grant_ref map = {.host_addr = address, .flags = flags, .ref = reference, .dom = own_domid};
    long result = HYPERCALL(grant_table_op, GNTTABOP_map_grant_ref, &map, 1);

    *handle = map.handle;
    return result ? (int)result : map.status;
}

static inline int grant_unmap(grant_handle_t handle, unsigned long address)
{
    struct gnttab_unmap_grant_ref unmap = {.host_addr = address, .handle = handle};
    long result = HYPERCALL(grant_table_op, GNTTABOP_unmap_grant_ref, &unmap, 1);

    return result ? (int)result : unmap.status;
}
