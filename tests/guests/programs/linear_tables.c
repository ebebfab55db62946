/* Linear page tables: a read-only entry may name its own table, or a validated table of its own level; a table that is named names none. */
#include "guest.h"

#define LINEAR (PTE_P | PTE_US | PTE_A)

static void check_level(int level)
{
    const unsigned pin = level == 2 ? MMUEXT_PIN_L2_TABLE : level == 3 ? MMUEXT_PIN_L3_TABLE : MMUEXT_PIN_L4_TABLE;
    u64 *first = table_alloc(), *second = table_alloc(), *third = table_alloc();
    u64 to_first = make_pte(virt_to_mfn(first), LINEAR), to_second = make_pte(virt_to_mfn(second), LINEAR);

    print("level %d\n", level);
    check_equal(mmuext(pin, virt_to_mfn(first), 0), 0, "a table");
    check_equal(pte_write(&second[3], to_first | PTE_RW), 0, "a plain page that names it");
    check_equal(mmuext(pin, virt_to_mfn(second), 0), -XEN_EINVAL, "is no table if the entry is writable");
    check_equal(pte_write(&second[3], to_first), 0, "a read-only entry");
    check_equal(mmuext(pin, virt_to_mfn(second), 0), 0, "is accepted");
    check_equal(pte_write(&second[4], to_first), 0, "another entry for it");
    check_equal(pte_write(&second[4], to_first | PTE_RW), -XEN_EINVAL, "XSA-182: which does not become writable");
    check_equal(pte_write(&second[5], to_second), 0, "an entry that names its own table");
    check_equal(pte_write(&first[3], to_second), -XEN_EINVAL, "XSA-240: not back: no ring");
    check_equal(pte_write(&third[3], to_second), 0, "a plain page that names the second");
    check_equal(mmuext(pin, virt_to_mfn(third), 0), -XEN_EINVAL, "XSA-240: no chain");
    check_equal(pte_write(&third[3], 0), 0, "without it");
    check_equal(mmuext(pin, virt_to_mfn(third), 0), 0, "it is a table");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(first), 0), 0, "the first is not pinned any more");
    check_equal(map_page(first, first, PTE_DATA), -XEN_EBUSY, "but a table as long as it is named");
    check_equal(pte_write(&second[3], 0), 0, "one entry less");
    check_equal(pte_write(&second[4], 0), 0, "the last one");
    check_equal(map_page(first, first, PTE_DATA), 0, "now it is a plain page");
    check_equal(pte_write(&second[5], 0), 0, "the second names nobody");
    check_equal(pte_write(&third[3], to_second), 0, "and may be named");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(third), 0), 0, "the third goes with its entries");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(second), 0), 0, "and the second");
    check_equal(map_page(second, second, PTE_DATA), 0, "no reference is left");
    check_equal(map_page(third, third, PTE_DATA), 0, "on either");
}

/* The tables themselves appear in the linear mapping, and those of another address space. */
static void check_sight(void)
{
    u64 *root = (u64 *)start_info->pt_base, *other = table_alloc();
    const unsigned long slot = 20, other_slot = 21, address = (unsigned long)root;
    volatile u64 *linear = (volatile u64 *)(slot << 39 | (address & 0x0000ffffffffffffUL) >> 12 << 3);

    check_equal(pte_write(&root[slot], make_pte(virt_to_mfn(root), LINEAR)), 0, "the root names itself");
    check_equal(*linear & PTE_FRAME, (u64)virt_to_mfn(root) << 12, "the L1 entry of an address, read through it");
    check_trap(TRAP_OF(MAY_FAULT("movq $0, (%0)")::"r"(linear) : "memory"), VECTOR_PF, PF_PRESENT | PF_WRITE, "it can't be written");
    check_equal(hypercall_update_va_mapping((u64)&root[0] & 0, 0, 0), -XEN_EINVAL, "update_va_mapping of no entry");
    check_equal(hypercall_update_va_mapping(slot << 39 | slot << 30 | slot << 21 | slot << 12, 0, 0), -XEN_EINVAL,
                "update_va_mapping of an address whose tables are linear");
    check_equal(pte_write(&other[7], 0x1234000 & ~1UL), 0, "another root");
    check_equal(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(other), 0), 0, "is pinned");
    check_equal(pte_write(&root[other_slot], make_pte(virt_to_mfn(other), LINEAR)), 0, "and named by the running one");
    check_equal(pte_write(&other[0], make_pte(virt_to_mfn(root), LINEAR)), -XEN_EINVAL, "it can't name that one then");
    check_equal(pte_write(&root[other_slot], 0), 0, "given up");
    check_equal(pte_write(&root[slot], 0), 0, "given up");
    check_equal(mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(other), 0), 0, "unpinned");
}

PROGRAM(linear_tables)
{
    for (int level = 2; level <= 4; level++)
        check_level(level);
    check_sight();
}
