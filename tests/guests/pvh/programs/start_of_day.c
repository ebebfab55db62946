/* @modes 64
 * The state at the entry point, and what struct hvm_start_info says (Xen's docs/misc/pvh, arch-x86/hvm/start_info.h). */
#include "guest.h"

static bool is_ram(u64 address)
{
    const struct hvm_memmap_table_entry *map = (void *)(unsigned long)start_info->memmap_paddr;

    for (unsigned i = 0; i < start_info->memmap_entries; i++)
        if (map[i].type == XEN_HVM_MEMMAP_TYPE_RAM && address >= map[i].addr && address < map[i].addr + map[i].size)
            return true;
    return false;
}

PROGRAM(start_of_day)
{
    const struct hvm_memmap_table_entry *map = (void *)(unsigned long)start_info->memmap_paddr;
    const u8 *rsdp = (void *)(unsigned long)start_info->rsdp_paddr;
    u8 sum = 0;
    u64 ram = 0;

    check_equal(boot_registers.cr0 & (CR0_PG | CR0_PE), CR0_PE, "CR0: protected mode, no paging");
    check_equal(boot_registers.cr4, 0, "CR4");
    check_equal(boot_registers.efer, 0, "EFER");
    check_equal(boot_registers.eflags, X86_EFLAGS_MBS, "EFLAGS: interrupts off, no TF, no VM");
    check_equal(start_info->magic, XEN_HVM_START_MAGIC_VALUE, "magic number at EBX");
    check_equal(start_info->version, 1, "version of the start information");
    check_equal(start_info->nr_modules, 0, "modules");
    check_equal(start_info->reserved, 0, "reserved word");
    check_equal(strcmp((const char *)(unsigned long)start_info->cmdline_paddr, ""), 0, "command line");
    check(!memcmp(rsdp, "RSD PTR ", 8), "the RSDP");
    for (unsigned i = 0; i < 36; i++)
        sum += rsdp[i];
    check_equal(sum, 0, "its checksum");
    check(!is_ram(start_info->rsdp_paddr), "it is not in RAM that the kernel might use");
    check(start_info->memmap_entries >= 2, "there is a memory map");
    for (unsigned i = 0; i < start_info->memmap_entries; i++) {
        print("# %llx + %llx type %u\n", (unsigned long long)map[i].addr, (unsigned long long)map[i].size, map[i].type);
        if (map[i].type == XEN_HVM_MEMMAP_TYPE_RAM)
            ram += map[i].size;
        check_equal(map[i].reserved, 0, "reserved word of an entry");
        check(i == 0 || map[i].addr >= map[i - 1].addr + map[i - 1].size, "entries ascend and do not overlap");
    }
    check_equal(ram, 8 << 20, "RAM");
    check(is_ram((unsigned long)start_info) && is_ram((unsigned long)image_start), "the image and the start information are in RAM");
    check((unsigned long)start_info >= (unsigned long)image_end, "the start information is not in the image");
}
