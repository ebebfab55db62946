/* XENMEM_memory_map: -ENOSYS if the toolstack set none, else RAM from 0 that covers the domain's pages. */
#include "guest.h"

struct e820_entry {
    u64 address, size;
    u32 type;
} __attribute__((packed));

PROGRAM(memory_map)
{
    static struct e820_entry entries[32];
    struct xen_memory_map map = {.nr_entries = ARRAY_SIZE(entries)};
    long result;

    set_xen_guest_handle(map.buffer, entries);
    result = hypercall_memory_op(XENMEM_memory_map, &map);
    check(result == 0 || result == -XEN_ENOSYS, "memory_map answers %ld", result);
    if (result == 0) {
        check(map.nr_entries >= 1, "there are %u entries", map.nr_entries);
        check_equal(entries[0].address, 0, "the first begins at 0");
        check_equal(entries[0].type, 1, "and is RAM");
        check(entries[0].size >= start_info->nr_pages * PAGE_SIZE, "of 0x%lx bytes", entries[0].size);
    }
    check_equal(hypercall_memory_op(XENMEM_machine_memory_map, &map), -XEN_EPERM, "machine_memory_map is for domain 0");
}
