/* @modes 64 pae 32
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

/* The number behind a word of the command line, 0 if it is not there. */
static u32 option(const char *word)
{
    const char *found = strstr((const char *)(unsigned long)start_info->cmdline_paddr, word);
    u32 value = 0;

    for (found = found ? found + strlen(word) : ""; *found >= '0' && *found <= '9'; found++)
        value = value * 10 + *found - '0';
    return value;
}

static void check_module(u32 size)
{
    const struct hvm_modlist_entry *module = (void *)(unsigned long)start_info->modlist_paddr;
    const u8 *content = (void *)(unsigned long)module->paddr;
    u32 sum = 0;

    check_equal(module->size, size, "its size");
    check(is_ram(module->paddr) && is_ram(module->paddr + size - 1), "it is in RAM");
    check(module->paddr >= (unsigned long)image_end, "behind the image");
    check_equal(module->reserved, 0, "reserved word");
    for (u32 i = 0; i < size; i++)
        sum += content[i];
    check_equal(sum, option("sum="), "its contents");
}

/* XENMEM_memory_map says what the start information says. */
static void check_same_map(void)
{
    const struct hvm_memmap_table_entry *map = (void *)(unsigned long)start_info->memmap_paddr;
    struct { u64 addr, size; u32 type; } __attribute__((packed)) entries[16];
    struct xen_memory_map argument = {.nr_entries = 16};

    set_xen_guest_handle(argument.buffer, (void *)entries);
    check_equal(HYPERCALL(memory_op, XENMEM_memory_map, &argument), 0, "XENMEM_memory_map");
    check_equal(argument.nr_entries, start_info->memmap_entries, "as many entries");
    for (unsigned i = 0; i < argument.nr_entries; i++)
        check(entries[i].addr == map[i].addr && entries[i].size == map[i].size && entries[i].type == map[i].type, "entry %u is the same", i);
    argument.nr_entries = 1;
    check_equal(HYPERCALL(memory_op, XENMEM_memory_map, &argument), 0, "with room for one");
    check_equal(argument.nr_entries, 1, "one is given");
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
    check_equal(start_info->nr_modules, option("size=") ? 1 : 0, "modules");
    if (start_info->nr_modules)
        check_module(option("size="));
    check_equal(start_info->reserved, 0, "reserved word");
    check(strlen((const char *)(unsigned long)start_info->cmdline_paddr) == option("length="), "command line");
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
    check_same_map();
    check(is_ram((unsigned long)start_info) && is_ram((unsigned long)image_start), "the image and the start information are in RAM");
    check((unsigned long)start_info >= (unsigned long)image_end, "the start information is not in the image");
}
