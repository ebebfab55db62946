/* Grants (version 1 unless a program changes it) that a program gives to its own domain, and their use. */
#pragma once

#include "check.h"
#include "event.h"
#include "hypercall.h"
#include "paging.h"

/* The first page of the table; both layouts of an entry. References from 8 on are the program's. */
static union {
    struct grant_entry_v1 v1[512];
    union grant_entry_v2 v2[256];
} grant_table page_aligned __attribute__((unused));
static grant_status_t grant_statuses[PAGE_SIZE / sizeof(grant_status_t)] page_aligned __attribute__((unused));

static inline domid_t own_domid(void)
{
    struct evtchn_status status;
    long port = event_alloc_unbound(DOMID_SELF);

    event_status(port, &status);
    event_close(port);
    return status.u.unbound.dom;
}

static inline void grants_init(void)
{
    xen_pfn_t frame;
    struct gnttab_setup_table setup = {.dom = DOMID_SELF, .nr_frames = 1};

    set_xen_guest_handle(setup.frame_list, &frame);
    check(hypercall_grant_table_op(GNTTABOP_setup_table, &setup, 1) == 0 && setup.status == GNTST_okay, "set up the grant table");
    check(map_frame(&grant_table, frame, PTE_DATA) == 0, "map it");
}

static inline long grant_set_version(unsigned version)
{
    struct gnttab_set_version set = {.version = version};

    return hypercall_grant_table_op(GNTTABOP_set_version, &set, 1);
}

static inline void grant_give(grant_ref_t reference, unsigned long mfn, u16 flags)
{
    grant_table.v1[reference].domid = own_domid();
    grant_table.v1[reference].frame = mfn;
    barrier();
    *(volatile u16 *)&grant_table.v1[reference].flags = flags;
}

static inline u16 grant_flags(grant_ref_t reference)
{
    return *(volatile u16 *)&grant_table.v1[reference].flags;
}

/* -> GNTST_*; the handle to *handle. */
static inline int grant_map(grant_ref_t reference, unsigned long address, u32 flags, grant_handle_t *handle)
{
    struct gnttab_map_grant_ref map = {.host_addr = address, .flags = flags, .ref = reference, .dom = own_domid()};
    long result = hypercall_grant_table_op(GNTTABOP_map_grant_ref, &map, 1);

    *handle = map.handle;
    return result ? (int)result : map.status;
}

static inline int grant_unmap(grant_handle_t handle, unsigned long address, u64 device_address)
{
    struct gnttab_unmap_grant_ref unmap = {.host_addr = address, .dev_bus_addr = device_address, .handle = handle};
    long result = hypercall_grant_table_op(GNTTABOP_unmap_grant_ref, &unmap, 1);

    return result ? (int)result : unmap.status;
}
