/* MMUEXT_SET_LDT. */
#include "guest.h"

#define LDT_SELECTOR(index) ((index) << 3 | 7)

PROGRAM(ldt)
{
    u64 *table = page_alloc();

    check_trap(segment_load(ds, LDT_SELECTOR(1)), VECTOR_GP, 1 << 3 | 4, "no LDT at the start");
    table[1] = DESCRIPTOR_DATA32;
    table[2] = descriptor_with_base(DESCRIPTOR_DATA32, 0x12345678);
    map_page(table, table, PTE_READ_ONLY);
    check_equal(mmuext(MMUEXT_SET_LDT, (unsigned long)table + 8, 512), -XEN_EINVAL, "an unaligned LDT");
    check_equal(mmuext(MMUEXT_SET_LDT, (unsigned long)table, 8193), -XEN_EINVAL, "8193 entries");
    check_equal(mmuext(MMUEXT_SET_LDT, (unsigned long)table, 512), 0, "SET_LDT");
    check_equal(segment_load(ds, LDT_SELECTOR(1)).kind, KIND_NONE, "load from it");
    check_equal(segment_read(ds), LDT_SELECTOR(1), "DS");
    check_trap(segment_load(ds, LDT_SELECTOR(3)), VECTOR_GP, 3 << 3 | 4, "an empty entry");
    check_trap(segment_load(ds, LDT_SELECTOR(600)), VECTOR_GP, 600 << 3 | 4, "an entry past the limit");
    check_equal(segment_load(fs, LDT_SELECTOR(2)).kind, KIND_NONE, "a segment with a base into FS");
    segment_load(fs, 0);
    segment_load(ds, 0);
    check_equal(mmuext(MMUEXT_SET_LDT, 0, 0), 0, "no LDT");
    check_trap(segment_load(ds, LDT_SELECTOR(1)), VECTOR_GP, 1 << 3 | 4, "it is gone");
}
