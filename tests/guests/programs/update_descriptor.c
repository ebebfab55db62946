/* HYPERVISOR_update_descriptor: segments are accepted with their DPL fixed, system descriptors refused. */
#include "guest.h"

static u64 *table;

static long update(unsigned index, u64 descriptor)
{
    return hypercall_update_descriptor(((u64)virt_to_mfn(table) << 12) + index * 8, descriptor);
}

PROGRAM(update_descriptor)
{
    xen_pfn_t frame;

    table = page_alloc();
    map_page(table, table, PTE_READ_ONLY);
    frame = virt_to_mfn(table);
    check_equal(hypercall_set_gdt(&frame, 512), 0, "set_gdt");

    check_equal(update(1, DESCRIPTOR_DATA32), 0, "a data segment");
    check_equal(*(volatile u64 *)&table[1], DESCRIPTOR_DATA32, "is written");
    check_equal(segment_load(ds, 0x0b).kind, KIND_NONE, "and can be loaded");
    segment_load(ds, 0);
    check_equal(update(2, DESCRIPTOR_DATA32 & ~DESCRIPTOR_DPL_MASK), 0, "a data segment of DPL 0");
    check_equal(*(volatile u64 *)&table[2] & DESCRIPTOR_DPL_MASK, DESCRIPTOR_DPL_MASK, "gets DPL 3");
    check_equal(update(3, DESCRIPTOR_CODE64 & ~DESCRIPTOR_DPL_MASK), 0, "a code segment of DPL 0");
    check_equal(*(volatile u64 *)&table[3] & DESCRIPTOR_DPL_MASK, DESCRIPTOR_DPL_MASK, "gets DPL 3");
    check_equal(update(4, DESCRIPTOR_CODE32), 0, "a 32-bit code segment");
    check_equal(update(5, 0), 0, "an empty entry");
    check_equal(update(5, 0x00008200UL << 32 & ~DESCRIPTOR_P), 0, "a system descriptor that is not present");
    check_equal(update(6, 0x0000820000000000UL), -XEN_EINVAL, "an LDT descriptor");
    check_equal(update(6, 0x0000890000000067UL), -XEN_EINVAL, "a TSS descriptor");
    check_equal(update(6, 0x00008b0000000067UL), -XEN_EINVAL, "a busy TSS descriptor");
    check_equal(update(6, 0x00008e0000100000UL), -XEN_EINVAL, "an interrupt gate");
    check_equal(update(6, 0x00008f0000100000UL), -XEN_EINVAL, "a trap gate");
    check_equal(update(6, 0x0000850000100000UL), -XEN_EINVAL, "a task gate");
    check_equal(*(volatile u64 *)&table[6], 0, "none of them was written");
    check_equal(hypercall_update_descriptor(((u64)frame << 12) + 4, 0), -XEN_EINVAL, "an unaligned address");
    check_equal(hypercall_update_descriptor(0x000ffffffffff000UL, 0), -XEN_EINVAL, "a frame that does not exist");
    check_equal(hypercall_update_descriptor((u64)virt_to_mfn((void *)start_info->pt_base) << 12, DESCRIPTOR_DATA32), -XEN_EINVAL,
                "a page-table page");

    u64 *plain = page_alloc();

    check_equal(hypercall_update_descriptor((u64)virt_to_mfn(plain) << 12, DESCRIPTOR_DATA32), 0, "a writable page");
    check_equal(*(volatile u64 *)plain, DESCRIPTOR_DATA32, "is written too");
}
