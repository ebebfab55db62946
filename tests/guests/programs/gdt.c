/* HYPERVISOR_set_gdt: a table of the guest's own below Xen's entries; pages must be read-only and entries few enough. */
#include "guest.h"

PROGRAM(gdt)
{
    u64 *table = page_alloc(), *window_page = page_alloc();
    xen_pfn_t frames[16] = {virt_to_mfn(table)};
    static const char probe[] = "gdt";
    char through_segment = 0;

    table[1] = DESCRIPTOR_DATA32;
    table[2] = DESCRIPTOR_DATA32 & ~DESCRIPTOR_P;
    table[511] = DESCRIPTOR_DATA32;
    check_trap(segment_load(ds, 0x0b), VECTOR_GP, 0x08, "before: selector 0x0b is not there");
    check_equal(hypercall_set_gdt(frames, 512), -XEN_EINVAL, "a page that is mapped writable");
    check_equal(map_page(table, table, PTE_READ_ONLY), 0, "map it read-only");
    check_equal(hypercall_set_gdt(frames, 512), 0, "set_gdt");
    check_equal(segment_load(ds, 0x0b).kind, KIND_NONE, "load its entry");
    check_equal(segment_read(ds), 0x0b, "DS");
    asm volatile("movb %%ds:(%1), %0" : "=r"(through_segment) : "r"(probe));
    check_equal(through_segment, 'g', "and use it");
    check_equal(segment_load(es, 511 << 3 | 3).kind, KIND_NONE, "load the last entry of the page");
    check_trap(segment_load(ds, 0x13), VECTOR_NP, 0x10, "an entry that is not present");
    check_trap(segment_load(ds, 0x1b), VECTOR_GP, 0x18, "an empty entry");
    check_trap(segment_load(ds, 512 << 3 | 3), VECTOR_GP, 512 << 3, "an entry past the table");
    check_equal(segment_read(ds), 0x0b, "DS is unchanged by the failures");
    check_equal(segment_load(ds, 0).kind, KIND_NONE, "null DS");
    check_equal(segment_load(es, 0).kind, KIND_NONE, "null ES");

    check(map_page(window_page, table, PTE_DATA) < 0, "a page in use as a GDT can't be mapped writable");
    check_equal(hypercall_set_gdt(frames, FIRST_RESERVED_GDT_ENTRY + 1), -XEN_EINVAL, "more entries than Xen leaves free");
    frames[1] = ~0UL >> 12;
    check_equal(hypercall_set_gdt(frames, 1024), -XEN_EINVAL, "a frame that does not exist");
    check_equal(segment_load(ds, 0x0b).kind, KIND_NONE, "the old table is still in force");
    segment_load(ds, 0);
    check_equal(hypercall_set_gdt(frames, 0), 0, "an empty GDT");
    check_trap(segment_load(ds, 0x0b), VECTOR_GP, 0x08, "its entries are gone");
    check_equal(map_page(table, table, PTE_DATA), 0, "and the page can be writable again");
}
